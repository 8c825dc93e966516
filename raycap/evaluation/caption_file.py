"""Files of captions: COCO JSON, JSON Lines, CSV and Parquet, as one table of rows."""

import math
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.readers.files import AnnotationFile, open_file, paged
from raycap.datasets.readers.json_files import ANNOTATIONS, IMAGES, JsonKind, is_json
from raycap.datasets.readers.table_rows import Row, read_rows
from raycap.errors import DatasetError
from raycap.exporting.values import unquoted
from raycap.storage.address import Address, redact, redact_id

FILE = "file"
FILE_NAME = "file_name"

ROWS = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(FILE, pa.string(), nullable=False),
        pa.field(schema.URI, pa.string()),
        pa.field(schema.ETAG, pa.string()),
        pa.field(schema.STATUS, pa.string(), nullable=False),
        pa.field(schema.ERROR_CODE, pa.string()),
        pa.field(schema.CAPTION, pa.string()),
        pa.field(schema.LOGPROB, pa.float32()),
    ]
)
"""One row of a system: the system's name of the image, the path of its file, its absolute address
and the ETag of what was captioned there where the row has them, and the caption or the reason why
there is none."""

FILE_NAMES = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(FILE_NAME, pa.string(), nullable=False),
    ]
)
"""File names of the image numbers of a COCO file."""

_PAGE_ROWS = 65_536
_LIST = "item"
_NAMES = (schema.IMAGE_ID, FILE_NAME, schema.URI)
_COLUMNS = (*_NAMES, schema.ETAG, schema.CAPTION, schema.STATUS, schema.ERROR_CODE, schema.LOGPROB)


def read_captions(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read a file of captions as ROWS tables, in file order.

    A row names its image by `image_id`, `file_name` or `uri`. One without a caption, or with the
    `status` `failed`, is a failed row. In CSV, an apostrophe before what a spreadsheet would run
    is not part of the text: `raycap export` writes it.

    Raises:
        DatasetError: the file cannot be parsed, or a row has no name or no caption.
        StorageError: it cannot be read.
    """
    file = open_file(source, config)
    rows = read_rows(file, choose_columns=_choose, items=_items(file, ANNOTATIONS), is_strict=True)
    if file.suffix == ".csv":
        rows = map(_without_empty_fields, map(_as_exported, rows))
    found = (_row(file.uri, number, row) for number, row in enumerate(rows, start=1))
    for page in paged(found, _PAGE_ROWS):
        yield _table(page, ROWS)


def read_file_names(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read the `images` of a COCO file as FILE_NAMES tables; a list of results has none.

    Raises:
        DatasetError: the file cannot be parsed.
        StorageError: it cannot be read.
    """
    file = open_file(source, config)
    items = _items(file, IMAGES)
    if items == _LIST:
        return
    named = (
        {schema.IMAGE_ID: str(image["id"]), FILE_NAME: image[FILE_NAME]}
        for image in read_rows(file, items=items, is_strict=True)
        if isinstance(image.get(FILE_NAME), str) and image[FILE_NAME] and "id" in image
    )
    for page in paged(named, _PAGE_ROWS):
        yield _table(page, FILE_NAMES)


def _items(file: AnnotationFile, name: str) -> str:
    """Return where the rows of a file are: COCO results are a list, captions an object."""
    return _LIST if file.suffix != ".json" or is_json(file, JsonKind.LIST) else f"{name}.item"


def _choose(columns: pa.Schema) -> list[str]:
    return [name for name in _COLUMNS if name in columns.names]


def _as_exported(row: Row) -> Row:
    """Take away the apostrophes that `raycap export` puts before what spreadsheets would run."""
    return {name: unquoted(text) for name, text in row.items()}


def _without_empty_fields(row: Row) -> Row:
    """Replace empty fields by None, except the caption: it may be empty."""
    return {name: text if text or name == schema.CAPTION else None for name, text in row.items()}


def _row(source: str, number: int, row: Row) -> dict[str, Any]:
    """Check a row, and return its ROWS columns."""
    image_id, file, uri = _names(source, number, row)
    caption = row.get(schema.CAPTION)
    is_failed = row.get(schema.STATUS) == schema.STATUS_FAILED
    if not is_failed and schema.CAPTION not in row:
        raise DatasetError(f"{source}: row {number} has no '{schema.CAPTION}'", uri=source)
    if caption is not None and not isinstance(caption, str):
        raise DatasetError(
            f"{source}: row {number} has a caption that is not text: {caption!r}", uri=source
        )
    is_failed = is_failed or caption is None
    return {
        schema.IMAGE_ID: image_id,
        FILE: file,
        schema.URI: uri,
        schema.ETAG: _text(row.get(schema.ETAG)),
        schema.STATUS: schema.STATUS_FAILED if is_failed else schema.STATUS_OK,
        schema.ERROR_CODE: _text(row.get(schema.ERROR_CODE)) if is_failed else None,
        schema.CAPTION: None if is_failed else caption,
        schema.LOGPROB: None if is_failed else _number(source, number, row.get(schema.LOGPROB)),
    }


def _names(source: str, number: int, row: Row) -> tuple[str, str, str | None]:
    """Return a row's image id, the path of its file, and its absolute address if it has one."""
    given = [row.get(name) for name in _NAMES]
    if any(isinstance(name, bool) or not isinstance(name, str | int | None) for name in given):
        raise DatasetError(
            f"{source}: row {number} has an image name that is neither text nor a whole number: "
            f"{' '.join(repr(name) for name in given if name is not None)}",
            uri=source,
        )
    image_id, file_name, uri = [None if name == "" else _text(name) for name in given]
    named = redact(uri) if uri else None
    if name := image_id or file_name:
        named = redact_id(name)
    if named is None:
        raise DatasetError(
            f"{source}: row {number} names no image ({', '.join(_NAMES)})", uri=source
        )
    is_whole = uri is not None and Address.parse(uri).is_absolute
    file = file_name or (_path_of(uri) if uri else None) or named
    return named, file, uri if is_whole else None


def _path_of(uri: str) -> str:
    """Return the path of an address: a web address may have a query after it."""
    address = Address.parse(uri)
    if not address.is_web:
        return uri
    _, slash, path = re.split("[?#]", address.path, maxsplit=1)[0].partition("/")
    return unquote(slash + path)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(source: str, number: int, value: Any) -> float | None:
    try:
        found = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}: row {number} has the logprob {value!r}", uri=source
        ) from error
    return found if found is not None and math.isfinite(found) else None


def _table(rows: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=columns)
    except UnicodeEncodeError:
        # A lone surrogate, which JSON can contain and Arrow cannot: it must not end the evaluation.
        return pa.Table.from_pylist([_encodable(row) for row in rows], schema=columns)


def _encodable(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }
