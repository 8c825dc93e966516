"""The reader of table files: JSON Lines, a JSON list, CSV, TSV and Parquet, as rows."""

import csv
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.datasets.readers.files import AnnotationFile, guarded, read_lines, reason_of
from raycap.datasets.readers.json_files import read_items
from raycap.storage.address import redact

Row = dict[str, Any]
ChooseColumns = Callable[[pa.Schema], list[str]]
"""Returns the names of the columns to read, or raises DatasetError."""

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

REST = "\0rest"
"""Column of a CSV row that holds its fields beyond the header, where it has more."""
FAULT = "\0fault"
"""Column of a row that cannot be read, which says why; see `read_placed_rows`."""
VALUE = "\0value"
"""Column of a row that is a text instead of an object: that text."""

_END = "\0end of file\0"
_BATCH_ROWS = 8_192
_BUFFER_BYTES = 1_048_576
_FIELD_CHARS = 4_194_304
_NO_OBJECT = 'a row is not an object, such as {"image_id": "1.jpg"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class TableForm:
    """How the rows of a table file are written."""

    kind: str
    """`csv`, `jsonl`, `json` or `parquet`."""
    delimiter: str = ","
    """The separator of fields of CSV."""
    items: str = "item"
    """Where the rows are in a `.json` file, as ijson has it; "item" for a list."""


def _all_columns(columns: pa.Schema) -> list[str]:
    names: list[str] = columns.names
    return names


def form_of(file: AnnotationFile, items: str = "item") -> TableForm:
    """Return the form of a table by its suffix, one of TABLE_SUFFIXES."""
    kind = file.suffix.removeprefix(".")
    if kind == "tsv":
        return TableForm(kind="csv", delimiter="\t")
    return TableForm(kind=kind, items=items)


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
    form = form_of(file, items)
    rows = _placed_rows(file, form, choose_columns, is_strict=is_strict)
    kind = file.suffix.removeprefix(".")
    yield from guarded(file, kind, (_without_fault(row, is_strict=is_strict) for _, row in rows))


def _without_fault(row: Row, *, is_strict: bool) -> Row:
    """Raise what is wrong with a row, if that is an error, and return it otherwise."""
    fault = row.pop(FAULT, None)
    row.pop(VALUE, None)
    if fault is not None and (is_strict or _is_broken(fault)):
        raise ValueError(fault)
    return row


def _is_broken(fault: str) -> bool:
    """Whether a row could not be parsed at all. Others name no image, and are rejected later."""
    return fault.startswith(_BROKEN)


_BROKEN = "not JSON: "


def read_placed_rows(
    file: AnnotationFile, form: TableForm, choose_columns: ChooseColumns
) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a table file, each with its place, such as `line 7`.

    One that cannot be read has a FAULT; the others are read nevertheless.

    Raises:
        DatasetError: the file cannot be parsed any further.
        StorageError: it cannot be read.
    """
    unit = "line" if form.kind in ("csv", "jsonl") else "row"
    rows = _placed_rows(file, form, choose_columns, is_strict=False)
    for number, row in guarded(file, form.kind, rows):
        yield f"{unit} {number}", row


def column_names(file: AnnotationFile, form: TableForm, wanted: Collection[str]) -> list[str]:
    """Return the names of a table's columns.

    Rows of JSON may differ in their names: they are read until all wanted ones have been seen.

    Raises:
        DatasetError: the file cannot be parsed.
        StorageError: it cannot be read.
    """
    names: dict[str, None] = {}

    def note(columns: pa.Schema) -> list[str]:
        names.update(dict.fromkeys(columns.names))
        return list(columns.names[:1])

    for _, row in read_placed_rows(file, form, note):
        if form.kind in ("csv", "parquet"):
            break
        names.update((name, None) for name in row if name not in (FAULT, VALUE))
        if names.keys() >= set(wanted):
            break
    return list(names)


def _placed_rows(
    file: AnnotationFile, form: TableForm, choose_columns: ChooseColumns, *, is_strict: bool
) -> Iterator[tuple[int, Row]]:
    """Yield rows with the number of their first line or, of JSON and Parquet, their own."""
    if form.kind == "parquet":
        return enumerate(_read_parquet(file, choose_columns), start=1)
    if form.kind == "csv":
        return _read_csv(file, form.delimiter, choose_columns, is_strict=is_strict)
    if form.kind == "jsonl":
        return _read_json_lines(file, is_strict=is_strict)
    return enumerate(map(_object, read_items(file, form.items)), start=1)


def _object(value: Any) -> Row:
    if isinstance(value, dict):
        return value
    return {FAULT: _NO_OBJECT, **({VALUE: value} if isinstance(value, str) else {})}


def _read_json_lines(file: AnnotationFile, *, is_strict: bool) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_lines(file, is_strict=is_strict), start=1):
        if line.strip():
            yield number, _parse_line(line)


def _parse_line(line: str) -> Row:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:
        return {FAULT: f"{_BROKEN}{reason_of(error)}"}


def _read_csv(
    file: AnnotationFile, delimiter: str, choose_columns: ChooseColumns, *, is_strict: bool
) -> Iterator[tuple[int, Row]]:
    rows = _csv_rows(file, delimiter, is_strict=is_strict)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    choose_columns(pa.schema([pa.field(name, pa.string()) for name in header]))
    for number, values in rows:
        row: Row = {**dict.fromkeys(header), **dict(zip(header, values, strict=False))}
        if len(values) > len(header):
            row[REST] = values[len(header) :]
        if len(values) != len(header):
            first = redact(values[0])  # not all fields: one may contain a signature
            row[FAULT] = f"{len(values)} fields instead of {len(header)}, the first: {first}"
        yield number, row


def read_csv(file: AnnotationFile, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that are not empty, including the header.

    Raises:
        csv.Error: a field is longer than 4,194,304 characters, or its quote is never closed, which
            would make one caption of the rest of the file.
    """
    return (values for _, values in _csv_rows(file, delimiter, is_strict=False))


def _csv_rows(
    file: AnnotationFile, delimiter: str, *, is_strict: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield rows as `read_csv` does, with their first line; if strict, refuse misplaced quotes."""
    lines = chain(read_lines(file, newline="", is_strict=is_strict), [_END])
    csv.field_size_limit(_FIELD_CHARS)
    rows = csv.reader(lines, delimiter=delimiter, strict=is_strict)
    begins = 1
    try:
        for row in rows:
            if row == [_END]:
                return
            if row and row[-1].endswith(_END):
                raise csv.Error(f"a quote in the row that begins in line {begins} is not closed")
            if row:
                yield begins, row
            begins = rows.line_num + 1
    except csv.Error as error:
        if "field limit" not in str(error):
            raise
        raise csv.Error(
            f"a field of the row that begins in line {begins} is longer than {_FIELD_CHARS:,} "
            "characters; is its quote closed?"
        ) from error


def _read_parquet(file: AnnotationFile, choose_columns: ChooseColumns) -> Iterator[Row]:
    with file.open() as data:
        # With a buffer, columns are read page by page: row groups may be larger than memory.
        parquet = pq.ParquetFile(data, buffer_size=_BUFFER_BYTES)
        columns = choose_columns(parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
