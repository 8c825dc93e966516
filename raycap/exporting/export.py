"""Export of the captions of a finished run to formats of other tools.

Parts are streamed in order. Memory does not grow with the number of images, except for 8 or 16
bytes per image to keep names unique. It does not use Ray: captions are text, and tars are limited
by the speed of the stores.
"""

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, islice
from pathlib import Path
from tarfile import USTAR_FORMAT, TarFile
from tempfile import gettempdir
from typing import Any, BinaryIO

from raycap.captioning.output import SOURCE_URI, FinishedOutput, open_finished
from raycap.captioning.source import File, with_held_files
from raycap.config import EditsMode, ExportFormat, Gone, SameStem, StorageConfig, choose
from raycap.errors import UNREADABLE, ConfigError, ImageError, ObjectNotFound, StorageError
from raycap.exporting import formats
from raycap.results.captioning import ExportCounts
from raycap.schema import CAPTION, ETAG, IMAGE_ID, ROW, STATUS, URI
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader, open_file, open_store

_TAR_THREADS = 4  # tars at the same time
_FETCH_THREADS = 4  # images per tar at the same time; twice as many are in memory
_SHOWN = 5


def export(  # noqa: PLR0913  the public call: all but two by keyword
    output: str | Path,
    destination: str | Path,
    *,
    to: ExportFormat | str,
    force: bool = False,
    keep_existing: bool = False,
    same_stem: SameStem | str = SameStem.SUFFIX,
    gone: Gone | str = Gone.KEEP,
    prompt: str | None = None,
    edits: EditsMode | str = EditsMode.APPLY,
    storage: StorageConfig | None = None,
) -> ExportCounts:
    """Export the captions of a finished run.

    Args:
        output: The output of `raycap caption`, a folder or `s3://bucket/prefix`.
        destination: A file for `jsonl`, `csv`, `parquet`, `coco` and `coco-results`; a folder for
            `sidecar` (such as the folder of the images) and `webdataset`. Local or in a bucket.
        to: The format.
        force: Overwrite an existing destination.
        keep_existing: Keep sidecars that exist with other content, such as edited ones, and write
            the others.
        same_stem: Names of the sidecars of images such as `x.jpg` and `x.png`: `suffix` (default),
            `first` or `error`.
        gone: `drop` leaves out images that were missing from the source when it was last listed.
        prompt: The named prompt whose answers to export; None for the first, if the run has any.
        edits: `apply` exports captions as reviewers left them, and what they made of each in the
            columns `edited`, `review` and `stale`; `ignore` exports those of the run; `only`
            exports those that reviewers have written or approved.
        storage: How stores are accessed; None for the defaults.

    Raises:
        ConfigError: an address is wrong, the destination exists, options exclude each other, or
            images share a stem and `same_stem` is `error`.
        DatasetError: `output` is not an output of raycap, is unfinished, or is damaged.
        StorageError: a store refuses a request.
    """
    to = choose(ExportFormat, to, "to")
    existing = _Existing(force=force, is_kept=keep_existing)
    if keep_existing and (force or to != ExportFormat.SIDECAR):
        raise ConfigError(
            "--keep-existing is for --to sidecar, and excludes --force: leave one of them out",
            setting="keep_existing",
        )
    stems = choose(SameStem, same_stem, "same_stem")
    drops_gone = choose(Gone, gone, "gone") is Gone.DROP
    source = open_finished(
        str(output),
        storage or StorageConfig(),
        drops_gone=drops_gone,
        prompt=prompt,
        edits=choose(EditsMode, edits, "edits"),
    )
    if to == ExportFormat.SIDECAR:
        folder = _open_folder(str(destination), source)
        counts = _export_sidecars(source, folder, existing, stems)
    elif to == ExportFormat.WEBDATASET:
        counts = _export_tars(source, _open_folder(str(destination), source), force=force)
    else:
        counts = _export_file(source, str(destination), to, force=force)
    return replace(counts, num_gone_skipped=source.num_dropped)


_WRITERS: dict[ExportFormat, Callable[[formats.Pages, BinaryIO], int]] = {
    ExportFormat.JSONL: formats.write_jsonl,
    ExportFormat.CSV: formats.write_csv,
    ExportFormat.PARQUET: formats.write_parquet,
    ExportFormat.COCO: formats.write_coco,
    ExportFormat.COCO_RESULTS: formats.write_coco_results,
}
_SUFFIXES = {ExportFormat.COCO: "json", ExportFormat.COCO_RESULTS: "json"}
_NOT_NUMBERED = (
    "image ids: numbered from 1 in the order of the output, as the names of the images do not all "
    "end with a number of their own; they match no other COCO file"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Existing:
    """What happens to a file that exists with other content; refused if neither is set."""

    force: bool
    is_kept: bool


def _export_file(
    source: FinishedOutput, destination: str, to: ExportFormat, *, force: bool
) -> ExportCounts:
    example = f"captions.{_SUFFIXES.get(to, to)}"
    store, key = open_file(destination, source.config, example=example)
    if not force:
        _refuse(store, filter(partial(_exists, store), [key]))
    with _staged(store, key) as file:
        num_exported = _WRITERS[to](source.pages, file)
    is_named = to not in _SUFFIXES or formats.has_numbers(source.pages)
    return ExportCounts(
        num_exported=num_exported,
        num_failed_skipped=source.num_images - num_exported,
        notes=() if is_named else (_NOT_NUMBERED,),
    )


def _open_folder(destination: str, source: FinishedOutput) -> Store:
    store = open_store(destination, source.config)
    if isinstance(store, LocalStore) and os.path.isfile(store.uri):
        raise ConfigError(f"{store.uri}: is a file; give a folder", uri=store.uri)
    return store


def _exists(store: Store, key: str) -> bool:
    if isinstance(store, LocalStore):
        return os.path.lexists(store.address(key))
    return store.exists(key)


@contextmanager
def _staged(store: Store, key: str) -> Iterator[BinaryIO]:
    """Open a temporary file that is moved to its key in the store once it is complete."""
    is_local = isinstance(store, LocalStore)
    folder = Path(store.address(key)).parent if is_local else Path(gettempdir())
    temporary = folder / f".{secrets.token_hex(8)}.raycap-tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Other users of this machine must not read captions that go to a bucket.
        mode = 0o666 if is_local else 0o600
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            try:
                yield file
                file.flush()
                store.upload(key, temporary)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}", uri=str(folder)) from error


def _export_sidecars(
    source: FinishedOutput, store: Store, existing: _Existing, same_stem: SameStem
) -> ExportCounts:
    # Names take failed images into account: a tool would read `a.txt` as the caption of both
    # `a.jpg` and `a.png`, and no name may change when a failed image is captioned later.
    names = formats.SidecarNames(source.image_ids(), same_stem)
    shared = _find_shared(source, names) if names.has_shared else []
    if shared and same_stem is SameStem.ERROR:
        raise ConfigError(
            f"{source.store.uri}: sidecars of images whose names differ only in the suffix would "
            f"share a name ({_few(shared)}); choose --same-stem suffix or first",
            uri=source.store.uri,
            setting="same_stem",
        )
    threads = source.config.list_threads
    if not (existing.force or existing.is_kept) and next(store.list(), None) is not None:

        def foreign(sidecar: tuple[str, bytes]) -> str | None:
            return sidecar[0] if _is_foreign(store, *sidecar) else None

        found = ordered_map(foreign, _sidecars(source, names), threads)
        _refuse(store, (key for key in found if key is not None))
    write = partial(_write_sidecar, store, existing=existing)
    written = Counter(ordered_map(write, _sidecars(source, names), threads))
    num_nameless = len(shared) - len(_stems(shared)) if same_stem is SameStem.FIRST else 0
    return ExportCounts(
        num_exported=written[True],
        num_failed_skipped=source.num_images - written.total() - num_nameless,
        num_files=written[True],
        num_same_stem=len(shared),
        num_kept=written[False],
        notes=_describe_shared(shared, same_stem),
    )


def _find_shared(source: FinishedOutput, names: formats.SidecarNames) -> list[str]:
    """Return the captioned images whose sidecars would share a name."""
    found: list[str] = []
    taken: set[str] = set()
    for page in source.pages([IMAGE_ID, STATUS]):
        image_ids = formats.captioned(page)[IMAGE_ID].to_pylist()
        rows = zip(image_ids, names.of(image_ids, taken), strict=True)
        found += [image_id for image_id, (_, is_shared) in rows if is_shared]
    return found


def _stems(image_ids: list[str]) -> set[str]:
    return {os.path.splitext(formats.safe_path(image_id))[0] for image_id in image_ids}


def _describe_shared(shared: list[str], same_stem: SameStem) -> tuple[str, ...]:
    if not shared:
        return ()
    what = f"images whose names differ only in the suffix: {len(shared)} ({_few(shared)}); "
    if same_stem is SameStem.FIRST:
        return (f"{what}only the first of each has a sidecar",)
    name = os.path.basename(shared[0])
    return (
        f"{what}their sidecars keep it, as in {name}.txt, where tools may look for "
        f"{os.path.splitext(name)[0]}.txt; --same-stem first writes that for the first of each",
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _sidecars(source: FinishedOutput, names: formats.SidecarNames) -> Iterator[tuple[str, bytes]]:
    taken: set[str] = set()
    for page in source.pages([IMAGE_ID, STATUS, CAPTION]):
        table = formats.captioned(page)
        keys = names.of(table[IMAGE_ID].to_pylist(), taken)
        for (key, _), caption in zip(keys, table[CAPTION].to_pylist(), strict=True):
            if key is not None:
                yield key, f"{caption}\n".encode()


def _write_sidecar(store: Store, sidecar: tuple[str, bytes], *, existing: _Existing) -> bool:
    """Write a sidecar; return False if another was there and is kept."""
    key, data = sidecar
    if existing.force:
        store.write(key, data)
    elif not store.create(key, data) and _is_foreign(store, key, data):
        if existing.is_kept:
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


def _refuse(store: Store, standing: Iterator[str]) -> None:
    """Raise ConfigError if any of these files exist, before anything is written."""
    first = list(islice(standing, _SHOWN))
    num_standing = len(first) + sum(1 for _ in standing)
    if num_standing:
        more = ", ..." if num_standing > len(first) else ""
        what = "1 file exists" if num_standing == 1 else f"{num_standing} files exist"
        raise ConfigError(
            f"{store.uri}: {what} already ({', '.join(first)}{more}); move them away, give another "
            "destination, keep them with --keep-existing (sidecars), or overwrite with --force",
            uri=store.uri,
        )


def _export_tars(source: FinishedOutput, store: Store, *, force: bool) -> ExportCounts:
    keys = [f"part-{number:06d}.tar" for number in source.parts]
    if not force:
        existing = ordered_map(partial(_exists, store), keys, source.config.list_threads)
        _refuse(store, compress(keys, existing))
    reader = ImageReader(source.config)

    def write(number: int) -> ExportCounts:
        with _staged(store, f"part-{number:06d}.tar") as file:
            return _write_tar(source, reader, number, file)

    parts = list(ordered_map(write, source.parts, _TAR_THREADS))
    return ExportCounts(
        num_exported=sum(part.num_exported for part in parts),
        num_failed_skipped=sum(part.num_failed_skipped for part in parts),
        num_unreadable=sum(part.num_unreadable for part in parts),
        unreadable=tuple(message for part in parts for message in part.unreadable)[:_SHOWN],
        num_files=len(parts),
    )


def _write_tar(
    source: FinishedOutput, reader: ImageReader, number: int, file: BinaryIO
) -> ExportCounts:
    part = source.part(number)
    rows = formats.captioned(part)
    unreadable: list[str] = []
    fetch = partial(_fetch, reader, source.max_image_bytes)
    with TarFile(fileobj=file, mode="w", format=USTAR_FORMAT) as tar:
        files = with_held_files(formats.rows_of(rows), source.dataset, source.config)
        for row, image in ordered_map(fetch, files, _FETCH_THREADS):
            if isinstance(image, str):
                unreadable.append(image)
                continue
            # No dot in the key: WebDataset treats everything after the first dot as the suffix.
            formats.add_sample(tar, f"{number:06d}_{row.pop(ROW):06d}", image, row)
    return ExportCounts(
        num_exported=len(rows) - len(unreadable),
        num_failed_skipped=len(part) - len(rows),
        num_unreadable=len(unreadable),
        unreadable=tuple(unreadable[:_SHOWN]),
    )


def _fetch(
    reader: ImageReader, max_bytes: int, held: tuple[dict[str, Any], File | None]
) -> tuple[dict[str, Any], bytes | str]:
    """Return the row and its image, read from its address if necessary, or why it is unreadable."""
    row, file = held
    uri = row.pop(SOURCE_URI)
    if isinstance(file, ImageError):
        return row, f"{row[IMAGE_ID]}: {file.message}"
    try:
        if file is not None:
            image = file
        else:
            image = reader.read(uri, max_bytes)
            changed = _difference(image, reader.is_version(uri, row[ETAG], image))
            if changed is not None:
                return row, f"{row[URI]}: {changed}"
    except UNREADABLE as error:
        return row, str(error)
    if len(image) > max_bytes:
        return row, f"{row[URI]}: has grown beyond {max_bytes:,} bytes"
    return row, image


def _difference(image: bytes, is_same: bool | None) -> str | None:
    """Say why an image is not the one that was captioned; None if it is, as far as is known."""
    if is_same is False:
        return (
            "has changed since it was captioned; run the same `raycap caption` command again, "
            "then export again"
        )
    if is_same is None and not formats.is_image(image):
        return "is no longer an image"
    return None
