"""Columns that an export is asked for: `caption`, `caption as text`, `short.caption`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.errors import ConfigError

ALL = "*"
"""All columns that an export has if none are chosen."""

_RENAMED = re.compile(r"(?P<source>.+?)\s+as\s+(?P<name>.+)", re.I | re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column to write."""

    name: str
    """Its name in the export."""
    path: tuple[str, ...]
    """The column to read, and the fields within it."""

    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """Return its values."""
        found = table[self.path[0]]
        for name in self.path[1:]:
            found = pc.struct_field(found, name)
        return found

    def in_row(self, row: Mapping[str, Any]) -> Any:
        """Return its value in a row."""
        found = row[self.path[0]]
        for name in self.path[1:]:
            found = None if found is None else found[name]
        return found

    def type_in(self, types: Mapping[str, pa.DataType]) -> pa.DataType:
        """Return the type of its values."""
        found = types[self.path[0]]
        for name in self.path[1:]:
            found = found.field(name).type
        return found


def chosen_columns(
    wanted: Sequence[str], types: Mapping[str, pa.DataType], all_names: Sequence[str]
) -> tuple[Column, ...]:
    """Find the columns that an export is asked for.

    Args:
        wanted: as `caption`, `caption as text`, `short.caption`, or ALL.
        types: of all columns that can be read.
        all_names: what ALL stands for.

    Raises:
        ConfigError: one does not exist, or two would have the same name.
    """
    found = [column for text in wanted for column in _columns(text, types, all_names)]
    names = [column.name for column in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not found:
        raise ConfigError(
            "--columns: give at least one column"
            if twice is None
            else f"--columns: has {twice!r} twice; rename one of them: '{twice} as other'",
            setting="columns",
        )
    return tuple(found)


def _columns(
    text: str, types: Mapping[str, pa.DataType], all_names: Sequence[str]
) -> Iterator[Column]:
    if text == ALL:
        yield from (Column(name=name, path=(name,)) for name in all_names)
        return
    path = _path(text, types)
    renamed = _RENAMED.fullmatch(text)
    if path is not None:
        yield Column(name=text, path=path)
    elif renamed and (path := _path(renamed["source"], types)) is not None:
        yield Column(name=renamed["name"], path=path)
    else:
        raise ConfigError(
            f"--columns: there is no column {text!r}; {described(types)}", setting="columns"
        )


def _path(text: str, types: Mapping[str, pa.DataType]) -> tuple[str, ...] | None:
    """Return the column and the fields that a text names: the longest name of a column first."""
    parts = text.split(".")
    for end in range(len(parts), 0, -1):
        head, fields = ".".join(parts[:end]), parts[end:]
        if head in types and _has(types[head], fields):
            return (head, *fields)
    return None


def _has(kind: pa.DataType, fields: Sequence[str]) -> bool:
    for name in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True


def described(types: Mapping[str, pa.DataType]) -> str:
    """Name the columns for a message; a struct with its fields."""
    names = [
        f"{name}.{{{', '.join(field.name for field in kind)}}}"
        if pa.types.is_struct(kind)
        else name
        for name, kind in types.items()
    ]
    return f"the columns are: {', '.join(names)}"


def shown_in(chosen: Sequence[Column] | None, row: dict[str, Any]) -> dict[str, Any]:
    """Return what the `.json` of a sample has of a row: the chosen columns, or else all."""
    if chosen is None:
        return row
    return {column.name: column.in_row(row) for column in chosen}
