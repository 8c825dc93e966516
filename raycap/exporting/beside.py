"""Exports that write one file per image, and what happens to such files that exist already."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from raycap.config import Existing, Naming, SameStem
from raycap.errors import ConfigError, ObjectNotFound
from raycap.exporting.columns import Column
from raycap.exporting.destination import few, open_folder, refuse
from raycap.exporting.formats import captioned
from raycap.exporting.jobs import ExportJob
from raycap.exporting.names import FullNames, Names, SidecarNames, safe_path
from raycap.exporting.selection import Selection, renamed
from raycap.exporting.values import plain_rows
from raycap.results.captioning import ExportCounts
from raycap.schema import CAPTION, IMAGE_ID, STATUS
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.parallel import ordered_map

Values = Mapping[str, Any]
"""The written columns of an image, as plain values."""

_MAX_BYTES = 16_777_216
"""Largest file to add something to: no sidecar of a caption is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a file beside an image is written."""

    suffix: str
    naming: Naming
    columns: tuple[Column, ...]
    """Written if the user chose none."""
    render: Callable[[Values], bytes | None]
    """Returns the content of a file; None if there is nothing to write."""
    merge: Callable[[bytes, Values, Existing], bytes | None]
    """Returns an existing file with what APPEND or IMPORT adds; None if it stays as it is."""


@dataclass(frozen=True, slots=True)
class _Item:
    key: str
    data: bytes
    values: Values


def export_beside(job: ExportJob, style: Style) -> ExportCounts:
    """Write a file for each captioned image."""
    rows = job.rows
    store = open_folder(job.destination, rows.config)
    # Names take failed images into account: a tool would read `a.txt` as the caption of both
    # `a.jpg` and `a.png`, and no name may change when a failed image is captioned later.
    names: Names = (
        FullNames(style.suffix)
        if style.naming is Naming.FULL
        else SidecarNames(rows.image_ids(), job.same_stem, style.suffix)
    )
    shared = _find_shared(rows, names) if names.has_shared else []
    if shared and job.same_stem is SameStem.ERROR:
        raise ConfigError(
            f"{rows.store.uri}: sidecars of images whose names differ only in the suffix would "
            f"share a name ({few(shared)}); choose --same-stem suffix or first",
            uri=rows.store.uri,
            setting="same_stem",
        )
    threads = rows.config.list_threads
    if job.existing is Existing.REFUSE and next(store.list(), None) is not None:

        def foreign(item: _Item) -> str | None:
            return item.key if _is_foreign(store, item.key, item.data) else None

        found = ordered_map(foreign, _items(rows, names, style), threads)
        refuse(store, (key for key in found if key is not None))
    write = partial(_write, store, style, job.existing)
    written = Counter(ordered_map(write, _items(rows, names, style), threads))
    first_only = job.same_stem is SameStem.FIRST
    num_nameless = len(shared) - len(_stems(shared)) if first_only else 0
    return ExportCounts(
        num_exported=written[True],
        num_failed_skipped=rows.num_images - written.total() - num_nameless,
        num_files=written[True],
        num_same_stem=len(shared),
        num_kept=written[False],
        notes=_describe_shared(shared, job.same_stem, style.suffix),
    )


def _find_shared(source: Selection, names: Names) -> list[str]:
    """Return the captioned images whose files would share a name."""
    found: list[str] = []
    taken: set[str] = set()
    for page in source.pages([IMAGE_ID, STATUS]):
        image_ids = captioned(page)[IMAGE_ID].to_pylist()
        rows = zip(image_ids, names.of(image_ids, taken), strict=True)
        found += [image_id for image_id, (_, is_shared) in rows if is_shared]
    return found


def _stems(image_ids: list[str]) -> set[str]:
    return {os.path.splitext(safe_path(image_id))[0] for image_id in image_ids}


def _describe_shared(shared: list[str], same_stem: SameStem, suffix: str) -> tuple[str, ...]:
    if not shared:
        return ()
    what = f"images whose names differ only in the suffix: {len(shared)} ({few(shared)}); "
    if same_stem is SameStem.FIRST:
        return (f"{what}only the first of each has a sidecar",)
    name = os.path.basename(shared[0])
    return (
        f"{what}their sidecars keep it, as in {name}{suffix}, where tools may look for "
        f"{os.path.splitext(name)[0]}{suffix}; --same-stem first writes that for the first of each",
    )


def _items(source: Selection, names: Names, style: Style) -> Iterator[_Item]:
    columns = style.columns if source.chosen is None else source.chosen
    needed = dict.fromkeys([IMAGE_ID, STATUS, *(column.path[0] for column in columns)])
    taken: set[str] = set()
    for page in source.pages(list(needed)):
        table = captioned(page)
        keys = names.of(table[IMAGE_ID].to_pylist(), taken)
        for (key, _), values in zip(keys, plain_rows(renamed(table, columns)), strict=True):
            data = None if key is None else style.render(values)
            if key is not None and data is not None:
                yield _Item(key, data, values)


def _write(store: Store, style: Style, existing: Existing, item: _Item) -> bool:
    """Write a file; return False if another was there and is kept."""
    if existing is Existing.OVERWRITE:
        store.write(item.key, item.data)
        return True
    if store.create(item.key, item.data) or not _is_foreign(store, item.key, item.data):
        return True
    if existing is Existing.REFUSE:
        raise ConfigError(
            f"{store.address(item.key)}: was written by another process during the export; move it "
            "away and run the same command again",
            uri=store.address(item.key),
        )
    standing = None if existing is Existing.SKIP else _read(store, item.key)
    merged = None if standing is None else style.merge(standing, item.values, existing)
    if merged is None:
        return False
    store.write(item.key, merged)
    return True


def _is_foreign(store: Store, key: str, data: bytes) -> bool:
    """Whether a key exists with other content."""
    try:
        # One more byte shows whether it is longer. Not `read`: that needs memory for all of it, and
        # also tries a local name without its percent-encoding.
        return store.read_tail(key, len(data) + 1) != data
    except ObjectNotFound:
        return isinstance(store, LocalStore) and os.path.lexists(store.address(key))


def _read(store: Store, key: str) -> bytes | None:
    """Read an existing file; None if it is too large, or no file."""
    try:
        data = store.read_tail(key, _MAX_BYTES + 1)
    except ObjectNotFound:
        return None
    return data if len(data) <= _MAX_BYTES else None


CAPTION_COLUMN = Column(name=CAPTION, path=(CAPTION,))
