"""Values of any Arrow column as JSON, as cells of CSV, and as lines of text."""

import base64
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from raycap.schema import CAPTION

Convert = Callable[[Any], Any]

_BATCH_ROWS = 1024


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as mappings, converted in batches to save memory."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from batch.to_pylist()


def plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as mappings of values that JSON can express."""
    return map(plainer(table.schema), rows_of(table))


def plainer(columns: pa.Schema) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes the values of a row such that JSON can express them.

    The row may lack some of the columns, and have others.
    """
    converters = _converters(columns)

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        for name, convert in converters:
            value = row.get(name)
            if value is not None:
                row[name] = convert(value)
        return row

    return plain


def as_json(value: Any) -> str:
    """Return a plain value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _converters(columns: pa.Schema) -> list[tuple[str, Convert]]:
    found = ((field.name, _converter(field.type)) for field in columns)
    return [(name, convert) for name, convert in found if convert is not None]


def _converter(kind: pa.DataType) -> Convert | None:
    """Return what makes a value of a type one of JSON; None if it is one already."""
    types = pa.types
    if types.is_float32(kind) or types.is_float16(kind):
        return _shortest
    if types.is_float64(kind):
        return _finite
    if types.is_struct(kind):
        return _struct(kind)
    if types.is_map(kind):
        return _map(kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _converter(kind.value_type)
        return None if inner is None else lambda items: [_each(inner, item) for item in items]
    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return lambda data: base64.b64encode(data).decode()
    is_json = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return None if is_json or types.is_integer(kind) or types.is_boolean(kind) else str


def _each(convert: Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _struct(kind: pa.StructType) -> Convert | None:
    inner = _converters(pa.schema(list(kind)))

    def convert(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, **{name: _each(change, value[name]) for name, change in inner}}

    return convert if inner else None


def _map(kind: pa.MapType) -> Convert:
    inner = _converter(kind.item_type)

    def convert(items: list[tuple[Any, Any]]) -> dict[str, Any]:
        return {str(key): _each(inner, item) if inner else item for key, item in items}

    return convert


def _shortest(value: float) -> float | None:
    """Return the shortest decimal for a float32; None if not finite, which JSON cannot express."""
    return float(str(np.float32(value))) if math.isfinite(value) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Apostrophes included, so that `unquoted` gives back every text.
_RUN_BY_SPREADSHEETS = re.compile(r"'*[=+\-@\t\r]")


def quoted(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    Captions and names come from whoever made the images. OWASP, "CSV Injection".
    """
    return f"'{cell}" if isinstance(cell, str) and _RUN_BY_SPREADSHEETS.match(cell) else cell


def unquoted(cell: Any) -> Any:
    """Take away the apostrophe that `quoted` has put before a text."""
    is_quoted = isinstance(cell, str) and cell[:1] == "'" and _RUN_BY_SPREADSHEETS.match(cell)
    return cell[1:] if is_quoted else cell


def cell_of(value: Any) -> Any:
    """Return a plain value as a cell of CSV: lists, structs and truth values as JSON."""
    if isinstance(value, str):
        return quoted(value)
    return as_json(value) if isinstance(value, list | dict | bool) else value


def texts_of(value: Any) -> list[str]:
    """Return the texts in a plain value, such as a caption, alternatives or tags.

    A struct with a caption is that caption; a list of structs is a text each; a list of other
    values is one text, separated by commas, as tags are written.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        return texts_of(value[CAPTION]) if CAPTION in value else [as_json(value)]
    if isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            return [text for item in value for text in texts_of(item)]
        return [", ".join(_text(item) for item in value if item is not None)] if value else []
    return [_text(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)
