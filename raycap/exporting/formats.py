"""Formats of an export: rows as text and Parquet, COCO, and samples of WebDataset.

Independent of stores: functions read pages of caption rows and write to an open file.
"""

import csv
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from raycap.captioning.parts import in_pages
from raycap.exporting.names import SIDECAR_SUFFIX
from raycap.exporting.values import as_json, cell_of, plain_rows, quoted, rows_of
from raycap.images.names import IMAGE_SUFFIXES
from raycap.schema import (
    CAPTION,
    HEIGHT_PX,
    IMAGE_ID,
    STATUS,
    STATUS_OK,
    WIDTH_PX,
)

Pages = Callable[[list[str] | None], Iterator[pa.Table]]
"""Starts a pass over all caption rows in order, with the named columns or all."""

_ROW_GROUP_ROWS = 65_536

_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,18}\Z")  # fits into an int64
_SIGNATURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\0\0\0\x0cjP  ": ".jp2",
}


def captioned(table: pa.Table) -> pa.Table:
    """Return the rows that have a caption."""
    return table.filter(pc.equal(table[STATUS], STATUS_OK))


def write_jsonl(tables: Iterator[pa.Table], columns: pa.Schema, file: BinaryIO) -> int:
    """Write every row as a line of JSON; return their number."""
    del columns  # every line names its own
    num_rows = 0
    for table in tables:
        for row in plain_rows(table):
            file.write(as_json(row).encode() + b"\n")
        num_rows += len(table)
    return num_rows


def write_csv(tables: Iterator[pa.Table], columns: pa.Schema, file: BinaryIO) -> int:
    """Write every row as CSV (RFC 4180), lists and structs as JSON text; return their number.

    A text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an apostrophe before
    it: spreadsheets would run it as a formula. The names of the columns are such texts too.
    """
    text = TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(map(quoted, columns.names))
    num_rows = 0
    for table in tables:
        for row in plain_rows(table):
            writer.writerow(map(cell_of, row.values()))
        num_rows += len(table)
    text.detach()  # flushes, and leaves the file open for its owner
    return num_rows


def write_parquet(tables: Iterator[pa.Table], columns: pa.Schema, file: BinaryIO) -> int:
    """Write every row to one Parquet file; return their number."""
    num_rows = 0
    with pq.ParquetWriter(file, columns, compression="zstd") as writer:
        for table in in_pages(tables, _ROW_GROUP_ROWS):
            writer.write_table(table.cast(columns), row_group_size=_ROW_GROUP_ROWS)
            num_rows += len(table)
    return num_rows


def write_coco(pages: Pages, file: BinaryIO) -> int:
    """Write the captioned images and their captions as COCO JSON; return their number.

    The id of an image is the number at the end of its name (`000000000030.jpg`: 30) if every image
    has one and all differ; otherwise images are numbered from 1. Only the best caption is written:
    tools that evaluate COCO results expect one per image.
    """
    is_named = has_numbers(pages)
    file.write(b'{"info": {"description": "Captions written by raycap"}, "licenses": [],\n')
    images = (
        {"id": number, "file_name": row[IMAGE_ID], "width": row[WIDTH_PX], "height": row[HEIGHT_PX]}
        for _, number, row in _numbered(pages, [WIDTH_PX, HEIGHT_PX], is_named=is_named)
    )
    _write_items(file, "images", images)
    file.write(b",\n")
    annotations = (
        {"id": index, "image_id": number, "caption": row[CAPTION]}
        for index, number, row in _numbered(pages, [CAPTION], is_named=is_named)
    )
    num_images = _write_items(file, "annotations", annotations)
    file.write(b"}\n")
    return num_images


def write_coco_results(pages: Pages, file: BinaryIO) -> int:
    """Write the captions as a list of COCO results; return their number.

    That is what `loadRes` of pycocotools reads. Ids of images are those of `write_coco`.
    """
    rows = _numbered(pages, [CAPTION], is_named=has_numbers(pages))
    results = ({"image_id": number, "caption": row[CAPTION]} for _, number, row in rows)
    num_images = _write_list(file, results)
    file.write(b"\n")
    return num_images


def _numbered(
    pages: Pages, columns: list[str], *, is_named: bool
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the captioned rows with their place, counted from 1, and the id of their image."""
    wanted = [IMAGE_ID, *columns, STATUS]
    rows = (row for table in pages(wanted) for row in rows_of(captioned(table)))
    for index, row in enumerate(rows, start=1):
        number = _number(row[IMAGE_ID]) if is_named else None
        yield index, index if number is None else number, row


def _write_items(file: BinaryIO, name: str, items: Iterator[dict[str, Any]]) -> int:
    file.write(f'"{name}": '.encode())
    return _write_list(file, items)


def _write_list(file: BinaryIO, items: Iterator[dict[str, Any]]) -> int:
    file.write(b"[")
    num_items = 0
    for item in items:
        file.write(b",\n" if num_items else b"\n")
        file.write(json.dumps(item, ensure_ascii=False).encode())
        num_items += 1
    file.write(b"]")
    return num_items


def has_numbers(pages: Pages) -> bool:
    """Whether every name ends with a number, and all differ; takes 8 bytes per image."""
    gathered = bytearray()
    for table in pages([IMAGE_ID, STATUS]):
        numbers = [_number(image_id) for image_id in captioned(table)[IMAGE_ID].to_pylist()]
        if None in numbers:
            return False
        gathered += np.array(numbers, np.int64).tobytes()
    found = np.frombuffer(gathered, np.int64)
    found.sort()
    return not bool((found[1:] == found[:-1]).any())


def _number(image_id: str) -> int | None:
    stem = posixpath.splitext(posixpath.basename(image_id))[0]
    match = _NUMBER.search(stem)
    return int(match[0]) if match else None


def add_sample(
    tar: tarfile.TarFile, key: str, image: bytes, row: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Add an image, its caption and its row to a tar, with reproducible bytes.

    Args:
        tar: The tar.
        key: Name of the sample.
        image: The image file.
        row: Its id and caption.
        shown: What the `.json` has of the row, as plain values.
    """
    members = {
        image_suffix(row[IMAGE_ID], image): image,
        ".json": as_json(shown).encode(),
        SIDECAR_SUFFIX: row[CAPTION].encode(),
    }
    for suffix, data in sorted(members.items()):
        member = tarfile.TarInfo(key + suffix)  # owner, mode and time are the same for all
        member.size = len(data)
        tar.addfile(member, BytesIO(data))


def image_suffix(image_id: str, data: bytes) -> str:
    """Return the suffix for an image file, from its name or else from its first bytes."""
    suffix = posixpath.splitext(image_id)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((s for magic, s in _SIGNATURES.items() if data.startswith(magic)), ".bin")


def is_image(data: bytes) -> bool:
    """Whether a file begins as an image does; nothing is decoded."""
    if data[4:8] == b"ftyp":  # HEIF and AVIF, which Pillow may lack
        return True
    try:
        Image.open(BytesIO(data)).close()
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True
    return True
