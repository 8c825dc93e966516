"""List files: addresses of images as text, CSV, TSV, JSON, JSON Lines or Parquet.

A list is recognised by its name; how it is written, by its content. A row that names no image is an
image that fails, with the place of the row: one bad row never ends a run.
"""

import csv
import os
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from raycap.captioning.context import Wanted
from raycap.config import StorageConfig
from raycap.datasets.readers.files import (
    NOT_UTF8,
    AnnotationFile,
    guarded,
    open_file,
    paged,
    read_lines,
)
from raycap.datasets.readers.image_folders import is_absolute
from raycap.datasets.readers.rows import text_of
from raycap.datasets.readers.table_rows import (
    FAULT,
    VALUE,
    Row,
    TableForm,
    column_names,
    form_of,
    read_placed_rows,
)
from raycap.errors import DatasetError
from raycap.parsing import parse_json
from raycap.schema import IMAGE_ID, MANIFEST, URI
from raycap.storage.address import Address, redact, redact_id, unusable
from raycap.storage.foreign import missing_package, scheme_fault
from raycap.storage.local import display

_TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")
LIST_SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet")
"""Sources with these suffixes are lists."""

_PAGE_ROWS = 65_536
_NUM_LINES_TRIED = 100
_PARQUET = b"PAR1"
_DELIMITERS = ",\t;|"
_LINES = "txt"  # one address per line


def list_fields(source: str, config: StorageConfig, wanted: Collection[str]) -> list[str]:
    """Return which columns of a list can be fields of prompts; raises as `column_names`.

    The addresses are none: they may contain signatures.
    """
    file = open_file(source, config)
    form = _form_of(file)
    names = [] if form.kind == _LINES else column_names(file, form, wanted)
    return [name for name in names if name != URI]


def read_list(
    source: str, config: StorageConfig, wanted: Wanted | None = None
) -> Iterator[pa.Table]:
    """Read a list file as MANIFEST tables in file order, with unknown sizes and ETags.

    Args:
        source: Its address.
        config: How stores are accessed.
        wanted: The columns to read for `context`; None for none.

    The id of an image is its `image_id`, if there is such a column and it is not empty, and its
    address without secrets otherwise. Relative paths are relative to the list's folder. The address
    of a row that names no image is one with a `fault`.

    Raises:
        DatasetError: no column `uri`, no row that names an image, or a file that cannot be parsed.
        StorageError: the file cannot be read.
    """
    file = open_file(source, config)
    for page in paged(_images(file, wanted), _PAGE_ROWS):
        yield _table(page)


def _images(file: AnnotationFile, wanted: Wanted | None) -> Iterator[tuple[str, str, str | None]]:
    """Yield image ids, absolute addresses, and contexts."""
    num_read, first_fault = 0, ""
    columns = () if wanted is None else wanted.names
    for place, read in _rows(file, _form_of(file), columns):
        row = _named(read)
        try:
            image = _image(file, row)
        except ValueError as error:
            image = _unread(file, place, row, str(error))
            first_fault = first_fault or f"{place}: {error}"
        else:
            num_read += 1
        yield *image, None if wanted is None else wanted.encode(row)
    if first_fault and not num_read:
        raise DatasetError(f"{file.uri}: no row names an image; {first_fault}", uri=file.uri)


def _form_of(file: AnnotationFile) -> TableForm:
    """Recognise how a list is written by its beginning, and by its suffix where that is unclear."""
    if file.suffix == ".parquet" or _starts_with(file, _PARQUET):
        return TableForm(kind="parquet")
    lines = islice(read_lines(file, newline=""), _NUM_LINES_TRIED)
    first = next((line for line in guarded(file, "text", lines) if line.strip()), "").strip()
    if first.startswith("{") and (file.suffix in (".json", ".jsonl") or _is_json(first)):
        return TableForm(kind="jsonl")
    if first.startswith("[") and (file.suffix == ".json" or first.startswith(('[{"', '["'))):
        return TableForm(kind="json")
    preferred = "\t,;|" if file.suffix == ".tsv" else _DELIMITERS
    for delimiter in preferred:
        if URI in [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]:
            return TableForm(kind="csv", delimiter=delimiter)
    return TableForm(kind=_LINES) if file.suffix == ".txt" else form_of(file)


def _starts_with(file: AnnotationFile, mark: bytes) -> bool:
    with file.open() as data:
        return data.peek(len(mark)).startswith(mark)


def _is_json(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _rows(
    file: AnnotationFile, form: TableForm, others: Collection[str]
) -> Iterator[tuple[str, Row]]:
    if form.kind != _LINES:
        return read_placed_rows(file, form, lambda columns: _choose(file, columns, others))
    lines = ((number, line.strip()) for number, line in enumerate(read_lines(file, newline=""), 1))
    rows = ((f"line {number}", {URI: line}) for number, line in lines if line)
    return guarded(file, _LINES, rows)


def _named(row: Row) -> Row:
    """Take a text in place of an object for an address."""
    return {URI: row[VALUE]} if VALUE in row else row


def _choose(file: AnnotationFile, columns: pa.Schema, others: Collection[str]) -> list[str]:
    if URI not in columns.names:
        raise DatasetError(
            f"{file.uri}: has no column '{URI}'; name the column of addresses '{URI}'", uri=file.uri
        )
    return [name for name in columns.names if name in (URI, IMAGE_ID, *others)]


def _image(file: AnnotationFile, row: Row) -> tuple[str, str]:
    """Return a row's image id and absolute address. Raises ValueError if it names no image."""
    if FAULT in row:
        raise ValueError(row[FAULT])
    uri = _address(file, row.get(URI))
    name = _id(row.get(IMAGE_ID)) or redact(uri)
    uri = uri if is_absolute(uri) else f"{file.folder}/{uri}"
    address = Address.parse(uri)
    fault = address.fault
    if not (address.is_local or address.is_web or address.is_s3):
        fault = fault or scheme_fault(address.scheme) or missing_package(address.scheme)
    if fault:
        raise ValueError(fault)
    return name, uri


def _address(file: AnnotationFile, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"no address in '{URI}'")
    if text_of(value) is not None:
        return value
    # A name of a file, as `find` writes it, in whatever bytes it is.
    path = value if is_absolute(value) else f"{file.folder}/{value}"
    if Address.parse(path).is_local and _exists(path):
        return display(value)
    raise ValueError(NOT_UTF8)


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a surrogate that represents no byte, or a null byte
        return False


def _id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):  # text in Parquet files that do not mark it as such
        value = value.decode(errors="surrogateescape")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = None if isinstance(value, list | dict) else text_of(str(value))
    if found is None:
        raise ValueError(f"an {IMAGE_ID} that is not text")
    return redact_id(found)


def _unread(file: AnnotationFile, place: str, row: Row, reason: str) -> tuple[str, str]:
    """Return the id and address of a row that names no image; both say which row it is."""
    reason = f"{place} of {file.uri}: {reason}"
    given = None if FAULT in row else text_of(row.get(URI))
    if not given:
        return f"({place} of {file.name})", unusable(f"{file.uri}#{place}", reason)
    try:
        name = _id(row.get(IMAGE_ID))
    except ValueError:
        name = None
    address = given if is_absolute(given) else f"{file.folder}/{given}"
    return name or redact(given), unusable(address, reason)


def _table(images: list[tuple[str, str, str | None]]) -> pa.Table:
    names, uris, contexts = zip(*images, strict=True)
    unknown = [None] * len(images)
    columns = [names, uris, unknown, unknown, contexts]
    arrays = [pa.array(column, f.type) for column, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)
