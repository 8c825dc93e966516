"""The reader of table files: JSON Lines, a JSON list, CSV, TSV and Parquet, as rows."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.datasets.readers.files import AnnotationFile, guarded, read_lines
from raycap.datasets.readers.json_files import read_items
from raycap.storage.address import redact

Row = dict[str, Any]
ChooseColumns = Callable[[pa.Schema], list[str]]
"""Returns the names of the columns to read, or raises DatasetError."""

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

REST = "\0rest"
"""Column of a CSV row that holds its fields beyond the header, where it has more."""

_END = "\0end of file\0"
_BATCH_ROWS = 8_192
_BUFFER_BYTES = 1_048_576


def _all_columns(columns: pa.Schema) -> list[str]:
    names: list[str] = columns.names
    return names


def read_rows(
    file: AnnotationFile,
    *,
    choose_columns: ChooseColumns = _all_columns,
    items: str = "item",
    is_strict: bool = False,
) -> Iterator[Row]:
    """Yield the rows of a table file in order; memory does not grow with the file.

    Fields of CSV and TSV are text: an id such as 000042 keeps its zeros.

    Args:
        file: its suffix is one of TABLE_SUFFIXES.
        choose_columns: called with the columns of Parquet, of which only the chosen are read, and
            with the header of CSV and TSV, of which all are read.
        items: where the rows are in a `.json` file, as ijson has it; "item" for a list.
        is_strict: a row that is not an object, a CSV row with more or fewer fields than the header
            and bytes that are not UTF-8 are errors. By default, a row that is not an object is
            empty, additional fields are in REST and missing ones None, and bytes that are not
            UTF-8 become lone surrogates.

    Raises:
        DatasetError: the file cannot be parsed any further; states the row or byte and the reason.
        StorageError: it cannot be read.
    """
    kind = file.suffix.removeprefix(".")
    yield from guarded(file, kind, _rows(file, kind, choose_columns, items, is_strict=is_strict))


def _rows(
    file: AnnotationFile, kind: str, choose_columns: ChooseColumns, items: str, *, is_strict: bool
) -> Iterator[Row]:
    if kind == "parquet":
        return _read_parquet(file, choose_columns)
    if kind in ("csv", "tsv"):
        delimiter = "," if kind == "csv" else "\t"
        return _read_csv(file, delimiter, choose_columns, is_strict=is_strict)
    values = _read_json_lines(file, is_strict=is_strict) if kind == "jsonl" else None
    found: Iterable[Any] = read_items(file, items) if values is None else values
    return map(partial(_object, is_strict=is_strict), found)


def _object(value: Any, *, is_strict: bool) -> Row:
    if isinstance(value, dict):
        return value
    if is_strict:
        raise ValueError('a row is not an object, such as {"image_id": "1.jpg"}')
    return {}  # names no image, so it becomes one rejected row later


def _read_json_lines(file: AnnotationFile, *, is_strict: bool) -> Iterator[Any]:
    for line in read_lines(file, is_strict=is_strict):
        if line.strip():
            yield json.loads(line)


def _read_csv(
    file: AnnotationFile, delimiter: str, choose_columns: ChooseColumns, *, is_strict: bool
) -> Iterator[Row]:
    rows = read_csv(file, delimiter, is_strict=is_strict)
    header = [name.strip() for name in next(rows, [])]
    choose_columns(pa.schema([pa.field(name, pa.string()) for name in header]))
    for values in rows:
        if is_strict and len(values) != len(header):
            first = redact(values[0])  # not all fields: one may contain a signature
            raise ValueError(f"{len(values)} fields instead of {len(header)}, the first: {first}")
        row: Row = {**dict.fromkeys(header), **dict(zip(header, values, strict=False))}
        if len(values) > len(header):
            row[REST] = values[len(header) :]
        yield row


def read_csv(
    file: AnnotationFile, delimiter: str, *, is_strict: bool = False
) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that are not empty, including the header.

    Args:
        file: the file.
        delimiter: the separator of fields.
        is_strict: raise at misplaced quotes and at bytes that are not UTF-8.

    Raises:
        csv.Error: a field is longer than 131,072 characters, or its quote is never closed, which
            would make one caption of the rest of the file.
        UnicodeDecodeError: bytes are not UTF-8 and `is_strict`.
    """
    lines = chain(read_lines(file, newline="", is_strict=is_strict), [_END])
    rows = csv.reader(lines, delimiter=delimiter, strict=is_strict)
    begins = 1
    for row in rows:
        if row == [_END]:
            return
        if row and row[-1].endswith(_END):
            raise csv.Error(f"a quote in the row that begins in line {begins} is not closed")
        if row:
            yield row
        begins = rows.line_num + 1


def _read_parquet(file: AnnotationFile, choose_columns: ChooseColumns) -> Iterator[Row]:
    with file.open() as data:
        # With a buffer, columns are read page by page: row groups may be larger than memory.
        parquet = pq.ParquetFile(data, buffer_size=_BUFFER_BYTES)
        columns = choose_columns(parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
