"""Export to WebDataset: a tar per part, with images, captions and rows."""

from functools import partial
from itertools import compress
from tarfile import USTAR_FORMAT, TarFile
from typing import Any, BinaryIO

from raycap.captioning.output import SOURCE_URI
from raycap.captioning.source import File, with_held_files
from raycap.config import Existing
from raycap.errors import UNREADABLE, ImageError
from raycap.exporting import formats
from raycap.exporting.destination import NUM_SHOWN, exists, open_folder, refuse, staged
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.selection import Selection
from raycap.exporting.values import plainer, rows_of
from raycap.results.captioning import ExportCounts
from raycap.schema import ETAG, IMAGE_ID, ROW, URI
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

_TAR_THREADS = 4  # tars at the same time
_FETCH_THREADS = 4  # images per tar at the same time; twice as many are in memory


def _export_tars(job: ExportJob) -> ExportCounts:
    rows = job.rows
    store = open_folder(job.destination, rows.config)
    keys = {number: f"part-{number:06d}.tar" for number in rows.parts}
    standing: set[int] = set()
    if job.existing is not Existing.OVERWRITE:
        found = ordered_map(partial(exists, store), keys.values(), rows.config.list_threads)
        standing = set(compress(keys, found))
    if job.existing is Existing.REFUSE:
        refuse(store, iter([keys[number] for number in keys if number in standing]))
    reader = ImageReader(rows.config)

    def write(number: int) -> ExportCounts:
        with staged(store, keys[number]) as file:
            return _write_tar(rows, reader, number, file)

    missing = [number for number in keys if number not in standing]
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
            formats.add_sample(tar, key, image, row, _shown(source, plain(row)))
    return ExportCounts(
        num_exported=len(rows) - len(unreadable),
        num_failed_skipped=len(part) - len(rows),
        num_unreadable=len(unreadable),
        unreadable=tuple(unreadable[:NUM_SHOWN]),
    )


def _shown(source: Selection, row: dict[str, Any]) -> dict[str, Any]:
    """Return what the `.json` of a sample has: the chosen columns, or else all."""
    if source.chosen is None:
        return row
    return {column.name: column.in_row(row) for column in source.chosen}


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
    write=_export_tars,
    existing=frozenset({Existing.REFUSE, Existing.SKIP, Existing.OVERWRITE}),
)
