"""Export to WebDataset: tars as those of the source, or a tar per part of the output."""

from dataclasses import replace
from functools import partial
from itertools import compress
from tarfile import USTAR_FORMAT, TarFile
from typing import Any, BinaryIO

from raycap.captioning.output import SOURCE_URI
from raycap.captioning.source import File, with_held_files
from raycap.config import Existing, Shards
from raycap.errors import UNREADABLE, ConfigError, ImageError
from raycap.exporting import formats
from raycap.exporting.columns import shown_in
from raycap.exporting.destination import NUM_SHOWN, exists, open_folder, refuse, staged
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.selection import Selection
from raycap.exporting.shards import export_shards, tars_of
from raycap.exporting.values import plainer, rows_of
from raycap.results.captioning import ExportCounts
from raycap.schema import ETAG, IMAGE_ID, ROW, URI
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

_TAR_THREADS = 4  # tars at the same time
_FETCH_THREADS = 4  # images per tar at the same time; twice as many are in memory


def _export(job: ExportJob) -> ExportCounts:
    """Write tars as those of the source, if there are any, or else a tar per part."""
    rows = job.rows
    store = open_folder(job.destination, rows.config)
    tars = [] if job.shards is Shards.PARTS else tars_of(rows)
    if not tars:
        if job.shards in (Shards.WHOLE, Shards.CAPTIONS):
            raise ConfigError(
                f"{rows.store.uri}: its images are in no tars, so there are none to write alike; "
                "leave --shards out",
                uri=rows.store.uri,
                setting="shards",
            )
        return _export_tars(job, store)
    standing = _standing(job, store, [tar.key for tar in tars])
    missing = [tar for tar in tars if tar.key not in standing]
    counts = export_shards(rows, missing, store, is_whole=job.shards is not Shards.CAPTIONS)
    return replace(counts, num_kept=len(standing))


def _standing(job: ExportJob, store: Store, keys: list[str]) -> set[str]:
    """Return which files exist and stay. Raises ConfigError if none may exist."""
    if job.existing is Existing.OVERWRITE:
        return set()
    found = ordered_map(partial(exists, store), keys, job.rows.config.list_threads)
    standing = list(compress(keys, found))
    if job.existing is Existing.REFUSE:
        refuse(store, iter(standing))
    return set(standing)


def _export_tars(job: ExportJob, store: Store) -> ExportCounts:
    rows = job.rows
    keys = {number: f"part-{number:06d}.tar" for number in rows.parts}
    standing = _standing(job, store, list(keys.values()))
    reader = ImageReader(rows.config)

    def write(number: int) -> ExportCounts:
        with staged(store, keys[number]) as file:
            return _write_tar(rows, reader, number, file)

    missing = [number for number, key in keys.items() if key not in standing]
    parts = list(ordered_map(write, missing, _TAR_THREADS))
    return ExportCounts(
        num_exported=sum(part.num_exported for part in parts),
        num_failed_skipped=sum(part.num_failed_skipped for part in parts),
        num_unreadable=sum(part.num_unreadable for part in parts),
        unreadable=tuple(message for part in parts for message in part.unreadable)[:NUM_SHOWN],
        num_files=len(parts),
        num_kept=len(standing),
    )


def _write_tar(source: Selection, reader: ImageReader, number: int, file: BinaryIO) -> ExportCounts:
    part = source.part(number)
    rows = formats.captioned(part)
    unreadable: list[str] = []
    fetch = partial(fetch_image, reader, source.max_image_bytes)
    plain = plainer(rows.schema)
    with TarFile(fileobj=file, mode="w", format=USTAR_FORMAT) as tar:
        files = with_held_files(rows_of(rows), source.dataset, source.config)
        for row, image in ordered_map(fetch, files, _FETCH_THREADS):
            if isinstance(image, str):
                unreadable.append(image)
                continue
            # No dot in the key: WebDataset treats everything after the first dot as the suffix.
            key = f"{number:06d}_{row.pop(ROW):06d}"
            formats.add_sample(tar, key, image, row, shown_in(source.chosen, plain(row)))
    return ExportCounts(
        num_exported=len(rows) - len(unreadable),
        num_failed_skipped=len(part) - len(rows),
        num_unreadable=len(unreadable),
        unreadable=tuple(unreadable[:NUM_SHOWN]),
    )


def fetch_image(
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


EXPORTER = Exporter(
    write=_export,
    existing=frozenset({Existing.REFUSE, Existing.SKIP, Existing.OVERWRITE}),
    options=frozenset({"columns", "shards"}),
)
