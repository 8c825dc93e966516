"""Export to sidecars: a text file with the caption beside each image."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial

from raycap.config import Existing, SameStem
from raycap.errors import ConfigError, ObjectNotFound
from raycap.exporting.destination import few, open_folder, refuse
from raycap.exporting.formats import captioned
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.names import SidecarNames, safe_path
from raycap.exporting.selection import Selection
from raycap.results.captioning import ExportCounts
from raycap.schema import CAPTION, IMAGE_ID, STATUS
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.parallel import ordered_map


def _export_sidecars(job: ExportJob) -> ExportCounts:
    # Names take failed images into account: a tool would read `a.txt` as the caption of both
    # `a.jpg` and `a.png`, and no name may change when a failed image is captioned later.
    rows, existing, same_stem = job.rows, job.existing, job.same_stem
    store = open_folder(job.destination, rows.config)
    names = SidecarNames(rows.image_ids(), same_stem)
    shared = _find_shared(rows, names) if names.has_shared else []
    if shared and same_stem is SameStem.ERROR:
        raise ConfigError(
            f"{rows.store.uri}: sidecars of images whose names differ only in the suffix would "
            f"share a name ({few(shared)}); choose --same-stem suffix or first",
            uri=rows.store.uri,
            setting="same_stem",
        )
    threads = rows.config.list_threads
    if existing is Existing.REFUSE and next(store.list(), None) is not None:

        def foreign(sidecar: tuple[str, bytes]) -> str | None:
            return sidecar[0] if _is_foreign(store, *sidecar) else None

        found = ordered_map(foreign, _sidecars(rows, names), threads)
        refuse(store, (key for key in found if key is not None))
    write = partial(_write_sidecar, store, existing=existing)
    written = Counter(ordered_map(write, _sidecars(rows, names), threads))
    num_nameless = len(shared) - len(_stems(shared)) if same_stem is SameStem.FIRST else 0
    return ExportCounts(
        num_exported=written[True],
        num_failed_skipped=rows.num_images - written.total() - num_nameless,
        num_files=written[True],
        num_same_stem=len(shared),
        num_kept=written[False],
        notes=_describe_shared(shared, same_stem),
    )


def _find_shared(source: Selection, names: SidecarNames) -> list[str]:
    """Return the captioned images whose sidecars would share a name."""
    found: list[str] = []
    taken: set[str] = set()
    for page in source.pages([IMAGE_ID, STATUS]):
        image_ids = captioned(page)[IMAGE_ID].to_pylist()
        rows = zip(image_ids, names.of(image_ids, taken), strict=True)
        found += [image_id for image_id, (_, is_shared) in rows if is_shared]
    return found


def _stems(image_ids: list[str]) -> set[str]:
    return {os.path.splitext(safe_path(image_id))[0] for image_id in image_ids}


def _describe_shared(shared: list[str], same_stem: SameStem) -> tuple[str, ...]:
    if not shared:
        return ()
    what = f"images whose names differ only in the suffix: {len(shared)} ({few(shared)}); "
    if same_stem is SameStem.FIRST:
        return (f"{what}only the first of each has a sidecar",)
    name = os.path.basename(shared[0])
    return (
        f"{what}their sidecars keep it, as in {name}.txt, where tools may look for "
        f"{os.path.splitext(name)[0]}.txt; --same-stem first writes that for the first of each",
    )


def _sidecars(source: Selection, names: SidecarNames) -> Iterator[tuple[str, bytes]]:
    taken: set[str] = set()
    for page in source.pages([IMAGE_ID, STATUS, CAPTION]):
        table = captioned(page)
        keys = names.of(table[IMAGE_ID].to_pylist(), taken)
        for (key, _), caption in zip(keys, table[CAPTION].to_pylist(), strict=True):
            if key is not None:
                yield key, f"{caption}\n".encode()


def _write_sidecar(store: Store, sidecar: tuple[str, bytes], *, existing: Existing) -> bool:
    """Write a sidecar; return False if another was there and is kept."""
    key, data = sidecar
    if existing is Existing.OVERWRITE:
        store.write(key, data)
    elif not store.create(key, data) and _is_foreign(store, key, data):
        if existing is Existing.SKIP:
            return False
        raise ConfigError(
            f"{store.address(key)}: was written by another process during the export; move it away "
            "and run the same command again",
            uri=store.address(key),
        )
    return True


def _is_foreign(store: Store, key: str, data: bytes) -> bool:
    """Whether a key exists with other content."""
    try:
        # One more byte shows whether it is longer. Not `read`: that needs memory for all of it, and
        # also tries a local name without its percent-encoding.
        return store.read_tail(key, len(data) + 1) != data
    except ObjectNotFound:
        return isinstance(store, LocalStore) and os.path.lexists(store.address(key))


EXPORTER = Exporter(
    write=_export_sidecars,
    existing=frozenset({Existing.REFUSE, Existing.SKIP, Existing.OVERWRITE}),
)
