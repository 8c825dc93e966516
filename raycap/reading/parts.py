"""What all readable outputs have in common: rows in parts, each of which is read as a whole."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.errors import ConfigError
from raycap.parsing import split_names
from raycap.schema import IMAGE_ID
from raycap.scratch import SqlError, condition_database, matching_rows, named_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of rows, sorted by image id."""

    key: str
    first: str
    """The first image id."""
    last: str
    """The last image id."""
    num_rows: int
    num_bytes: int = 0
    """Size of the file; 0 if it is not needed to read it."""
    number: int = 0
    columns: frozenset[str] = frozenset()
    """The columns of the file; empty if all files of the output have the same."""

    def may_have(self, image_id: str) -> bool:
        """Whether it is where an image's row would be."""
        return self.first <= image_id <= self.last


class Content(ABC):
    """The rows of an output. It goes to Ray's workers, so it can be pickled."""

    schema: pa.Schema
    """All columns of its rows."""
    read_ahead: int
    """Parts to read at the same time."""

    @property
    def default_columns(self) -> list[str]:
        """What is read unless columns are named."""
        return list(self.schema.names)

    @property
    def changes_count(self) -> bool:
        """Whether a part may yield fewer rows than its file has."""
        return False

    @property
    def is_keyed(self) -> bool:
        """Whether each image has one row."""
        return True

    @abstractmethod
    def tables(self, part: Part, columns: list[str]) -> Iterator[pa.Table]:
        """Read these columns of a part.

        Raises:
            DatasetError: the part is damaged.
            StorageError: the store refuses, or the part does not exist any more.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReader:
    """Reads parts as the user asked for them."""

    content: Content
    columns: list[str]
    where: str | None = None
    """A condition in SQL."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that it yields."""
        return pa.schema([self.content.schema.field(name) for name in self.columns])

    @property
    def counts(self) -> bool:
        """Whether rows have to be read to be counted."""
        return self.where is not None or self.content.changes_count

    def __call__(self, part: Part) -> Iterator[pa.Table]:
        """Yield the rows of a part."""
        used = [] if self.where is None else named_columns(self.where, self.content.schema.names)
        wanted = list(dict.fromkeys([*self.columns, *used])) or self.content.schema.names[:1]
        for table in self.content.tables(part, wanted):
            found = table if self.where is None else _matching(table, self.where)
            if len(found):
                yield found.select(self.columns)

    def only(self, columns: list[str]) -> "PartReader":
        """Return a reader of other columns of the same rows."""
        return PartReader(content=self.content, columns=columns, where=self.where)

    def find(self, parts: Iterable[Part], image_id: str) -> dict[str, Any] | None:
        """Return the row of an image; None if no part has it."""
        names = [IMAGE_ID, *(name for name in self.columns if name != IMAGE_ID)]
        for part in parts:
            if part.may_have(image_id):
                for table in self.only(names)(part):
                    found = table.filter(pc.equal(table[IMAGE_ID], image_id))
                    if len(found):
                        row: dict[str, Any] = found.select(self.columns).to_pylist()[0]
                        return row
        return None


def choose_columns(content: Content, columns: Sequence[str] | str | None, uri: str) -> list[str]:
    """Return the columns to read.

    Raises:
        ConfigError: there is no such column.
    """
    names = split_names(columns) or list(content.default_columns if columns is None else ())
    for name in names:
        if name not in content.schema.names:
            raise ConfigError(
                f"{uri}: has no column {name!r}; its columns are: "
                f"{', '.join(content.schema.names)}",
                uri=uri,
                setting="columns",
            )
    return list(dict.fromkeys(names))


def check_where(content: Content, where: str | None, uri: str) -> None:
    """Make sure that a condition can be evaluated on the rows.

    Raises:
        ConfigError: it is no condition in SQL, or names a column that does not exist.
    """
    if where is None:
        return
    try:
        matching_rows(condition_database(), content.schema.empty_table(), where)
    except SqlError as error:
        names = f"; the columns are: {', '.join(content.schema.names)}" if error.is_of_names else ""
        raise ConfigError(f"{uri}: where: {error}{names}", uri=uri, setting="where") from error


def _matching(table: pa.Table, where: str) -> pa.Table:
    """Return the rows for which a condition holds, in their order."""
    try:
        found = matching_rows(condition_database(), table, where)
    except SqlError as error:  # a value that cannot be computed with
        raise ConfigError(f"where: {error}", setting="where") from error
    return table.take(found.take(pc.sort_indices(found)))


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the columns of several files: those of the first, then those that others add.

    Raises:
        pa.ArrowException: a column has types that have nothing in common.
    """
    return pa.unify_schemas(list(schemas), promote_options="permissive").remove_metadata()


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema; those that it lacks are null."""
    columns = [
        _as(table[field.name].combine_chunks(), field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _as(array: Any, kind: pa.DataType) -> pa.Array:
    """Return values with another type, which may have more fields."""
    if isinstance(array, pa.ChunkedArray):  # what `combine_chunks` gives for some sizes
        array = pa.concat_arrays(array.chunks)
    if array.type == kind:
        return array
    if not (pa.types.is_struct(kind) and pa.types.is_struct(array.type)):
        return array.cast(kind)
    has = {field.name for field in array.type}
    fields = [
        _as(array.field(field.name), field.type)
        if field.name in has
        else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
