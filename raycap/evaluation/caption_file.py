"""Files of captions: COCO JSON, JSON Lines, CSV and Parquet, as one table of rows."""

import csv
import io
import json
import math
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.readers.files import JsonText
from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.storage.address import Address, redact
from raycap.storage.stores import open_store

T = TypeVar("T")

FILE = "file"
FILE_NAME = "file_name"

ROWS = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(FILE, pa.string(), nullable=False),
        pa.field(schema.URI, pa.string()),
        pa.field(schema.STATUS, pa.string(), nullable=False),
        pa.field(schema.ERROR_CODE, pa.string()),
        pa.field(schema.CAPTION, pa.string()),
        pa.field(schema.LOGPROB, pa.float32()),
    ]
)
"""One row of a system: the image as the system names it, the path by which its file is known, its
full address where the row gives one, and the caption or why there is none."""

FILE_NAMES = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(FILE_NAME, pa.string(), nullable=False),
    ]
)
"""What a COCO file's image numbers stand for."""

_PAGE_ROWS = 65_536
_NAMES = (schema.IMAGE_ID, FILE_NAME, schema.URI)
_COLUMNS = (*_NAMES, schema.CAPTION, schema.STATUS, schema.ERROR_CODE, schema.LOGPROB)

_File = io.BufferedReader
_Row = Mapping[str, Any]


def read_rows(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read a file of captions as ROWS tables, in its own order.

    A row names its image by `image_id`, `file_name` or `uri`. One without a caption, or with the
    `status` `failed`, is a failed row.

    Raises:
        DatasetError: the file cannot be parsed, or a row lacks a name or a caption.
        StorageError: it cannot be read.
    """
    reader = _READERS[os.path.splitext(source)[1].lower()]
    number = 0
    for page in _paged(_opened(source, config, reader)):
        rows = [_row(source, number, row) for number, row in enumerate(page, start=number + 1)]
        number += len(rows)
        yield _table(rows, ROWS)


def read_file_names(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read the `images` of a COCO file as FILE_NAMES tables; results alone have none.

    Raises:
        DatasetError: the file cannot be parsed.
        StorageError: it cannot be read.
    """
    for page in _paged(_opened(source, config, _read_coco_images)):
        rows = [
            {schema.IMAGE_ID: str(image["id"]), FILE_NAME: image[FILE_NAME]}
            for image in page
            if isinstance(image.get(FILE_NAME), str) and image[FILE_NAME] and "id" in image
        ]
        yield _table(rows, FILE_NAMES)


def _opened(
    source: str, config: StorageConfig, reader: Callable[[_File], Iterator[_Row]]
) -> Iterator[_Row]:
    """Read a file's rows, and turn the errors of its format and its place into ours."""
    try:
        with _open(source, config) as file:
            for row in reader(file):
                if not isinstance(row, Mapping):
                    raise ValueError('an item is not an object, such as {"image_id": 1, ...}')
                yield row
    except (pa.ArrowException, csv.Error, ijson.JSONError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{source}: cannot be read as captions: {reason}") from error
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{source}: no such file") from error
    except OSError as error:
        raise StorageError(f"{source}: {error.strerror or error}") from error


def _open(source: str, config: StorageConfig) -> _File:
    address = Address.parse(source)
    if address.is_local:
        return open(address.local_path, "rb")
    folder, _, name = source.rpartition("/")
    return io.BufferedReader(io.BytesIO(open_store(folder, config).read(name)))


def _read_coco(file: _File) -> Iterator[_Row]:
    items = "item" if _is_list(file) else "annotations.item"
    yield from ijson.items(JsonText(file), items, use_float=True)


def _read_coco_images(file: _File) -> Iterator[_Row]:
    if not _is_list(file):
        yield from ijson.items(JsonText(file), "images.item", use_float=True)


def _is_list(file: _File) -> bool:
    """Say whether a file holds a bare list."""
    start = file.read(1024)
    file.seek(0)
    return start.removeprefix(BOM_UTF8).lstrip().startswith(b"[")


def _read_json_lines(file: _File) -> Iterator[_Row]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _read_csv(file: _File) -> Iterator[_Row]:
    # Everything is text here: an id such as 000042 must keep its zeros.
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        header = next(rows, [])
        for row in rows:
            if row and len(row) != len(header):
                first = redact(row[0])  # not all: a signature may be in it
                raise ValueError(f"{len(row)} fields instead of {len(header)}, the first: {first}")
            if row:
                yield _without_empty_fields(dict(zip(header, row, strict=True)))


def _without_empty_fields(row: dict[str, str]) -> dict[str, Any]:
    """Read an empty field as nothing; but an empty caption is one, unless the row failed."""
    return {name: text or None for name, text in row.items() if text or name != schema.CAPTION} | (
        {schema.CAPTION: row[schema.CAPTION]} if schema.CAPTION in row else {}
    )


def _read_parquet(file: _File) -> Iterator[_Row]:
    parquet = pq.ParquetFile(file)
    wanted = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
    for batch in parquet.iter_batches(batch_size=_PAGE_ROWS, columns=wanted):
        yield from batch.to_pylist()


_READERS: dict[str, Callable[[_File], Iterator[_Row]]] = {
    ".json": _read_coco,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _row(source: str, number: int, row: _Row) -> dict[str, Any]:
    """Check a row and say of it what ROWS wants."""
    image_id, file, uri = _names(source, number, row)
    caption = row.get(schema.CAPTION)
    is_failed = row.get(schema.STATUS) == schema.STATUS_FAILED
    if not is_failed and schema.CAPTION not in row:
        raise DatasetError(f"{source}: row {number} has no '{schema.CAPTION}'")
    if caption is not None and not isinstance(caption, str):
        raise DatasetError(f"{source}: row {number} has a caption that is not text: {caption!r}")
    is_failed = is_failed or caption is None
    return {
        schema.IMAGE_ID: image_id,
        FILE: file,
        schema.URI: uri,
        schema.STATUS: schema.STATUS_FAILED if is_failed else schema.STATUS_OK,
        schema.ERROR_CODE: _text(row.get(schema.ERROR_CODE)) if is_failed else None,
        schema.CAPTION: None if is_failed else caption,
        schema.LOGPROB: None if is_failed else _number(source, number, row.get(schema.LOGPROB)),
    }


def _names(source: str, number: int, row: _Row) -> tuple[str, str, str | None]:
    """Give a row's image id, the path of its file, and its full address if it has one."""
    given = [row.get(name) for name in _NAMES]
    if any(isinstance(name, bool) or not isinstance(name, str | int | None) for name in given):
        raise DatasetError(
            f"{source}: row {number} names its image by neither text nor a whole number: "
            f"{' '.join(repr(name) for name in given if name is not None)}"
        )
    image_id, file_name, uri = [None if name == "" else _text(name) for name in given]
    named = image_id or file_name or (redact(uri) if uri else None)
    if named is None:
        raise DatasetError(f"{source}: row {number} names no image ({', '.join(_NAMES)})")
    is_whole = uri is not None and Address.parse(uri).is_absolute
    file = file_name or (_path_of(uri) if uri else None) or named
    return named, file, uri if is_whole else None


def _path_of(uri: str) -> str:
    """Give the path of an address: a web address may carry a query behind it."""
    return unquote(urlsplit(uri).path) if Address.parse(uri).is_web else uri


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(source: str, number: int, value: Any) -> float | None:
    try:
        found = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{source}: row {number} has the logprob {value!r}") from error
    return found if found is not None and math.isfinite(found) else None


def _table(rows: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=columns)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can hold and no text can: it must not end all.
        return pa.Table.from_pylist([_encodable(row) for row in rows], schema=columns)


def _encodable(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _paged(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while page := list(islice(remaining, _PAGE_ROWS)):
        yield page
