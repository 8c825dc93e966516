"""What an export writes of an output: the rows of a condition, chosen and joined columns."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raycap.captioning.output import FinishedOutput
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.exporting.columns import Column, chosen_columns, described
from raycap.exporting.joining import JoinedTable, join_table
from raycap.parsing import split_names
from raycap.schema import EDIT_MARKS, IMAGE_ID
from raycap.scratch import SqlError, confine, matching_rows, named_columns, scratch_database
from raycap.storage.base import Store

if TYPE_CHECKING:
    import duckdb

_MEMORY_BYTES = 512_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows and columns of an output that an export writes.

    It is read as the output is: page by page, in the order of the output.
    """

    output: FinishedOutput
    parts: list[int]
    """Numbers of the parts that have rows to write, ascending."""
    columns: pa.Schema
    """All columns but those of named prompts: those of the output, then those of the join."""
    types: Mapping[str, pa.DataType]
    """Types of all columns that can be read, those of named prompts included."""
    chosen: tuple[Column, ...] | None = None
    """Columns to write; None if the user chose none."""
    joined: JoinedTable | None = None
    kept: Mapping[int, pa.BooleanArray] | None = None
    """By part, which rows meet the condition; None without one."""
    num_left_out: int = 0
    """Images that do not meet the condition."""

    @property
    def store(self) -> Store:
        """The output's store."""
        return self.output.store

    @property
    def config(self) -> StorageConfig:
        """How stores are reached."""
        return self.output.config

    @property
    def num_images(self) -> int:
        """Images to write, those without a caption included."""
        return self.output.num_images - self.num_left_out

    @property
    def max_image_bytes(self) -> int:
        """Largest image file that the run accepted."""
        return self.output.max_image_bytes

    @property
    def dataset(self) -> str | None:
        """Address of the run's source if that is a caption dataset."""
        return self.output.dataset

    def image_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each part of the output, whether they are written or not."""
        return self.output.image_ids()

    def pages(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, with these columns or all of `columns`."""
        wanted = self.columns.names if columns is None else columns
        own = [name for name in wanted if not self._is_joined(name)]
        pages = replace(self.output, parts=self.parts).pages(own or [IMAGE_ID])
        if own == wanted and self.kept is None:
            yield from pages
            return
        for number, page in zip(self.parts, pages, strict=True):
            yield self._selected(number, page, wanted)

    def part(self, number: int) -> pa.Table:
        """Read a part as `FinishedOutput.part` does, with the columns of the join."""
        page = self.output.part(number)
        joined = self.joined.columns.names if self.joined else []
        return self._selected(number, page, [*page.column_names, *joined])

    @property
    def written(self) -> pa.Schema:
        """The columns of `tables`."""
        if self.chosen is None:
            return self.columns
        return pa.schema([(column.name, column.type_in(self.types)) for column in self.chosen])

    def tables(self, default: Sequence[Column] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, with the chosen columns under their new names.

        Args:
            default: the columns if the user chose none; None for all.
        """
        chosen = self.chosen if self.chosen is not None else default
        if chosen is None:
            yield from self.pages()
            return
        for page in self.pages(list(dict.fromkeys(column.path[0] for column in chosen))):
            yield renamed(page, chosen)

    def _is_joined(self, name: str) -> bool:
        return self.joined is not None and name in self.joined.columns.names

    def _selected(self, number: int, page: pa.Table, wanted: list[str]) -> pa.Table:
        if self.joined is not None and any(map(self._is_joined, wanted)):
            joined = self.joined.of(number)
            for name in filter(self._is_joined, wanted):
                page = page.append_column(joined.schema.field(name), joined[name])
        page = page.select(wanted)
        return page if self.kept is None else page.filter(self.kept[number])


def renamed(page: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Return a table with these columns of a page, under their new names."""
    return pa.table({column.name: column.of(page) for column in columns})


@contextmanager
def selected(
    output: FinishedOutput,
    *,
    where: str | None = None,
    columns: Sequence[str] | str | None = None,
    join: str | None = None,
    on: str | None = None,
) -> Iterator[Selection]:
    """Open what an export writes of an output, for the block.

    Args:
        output: The output.
        where: A condition on the columns, in SQL.
        columns: The columns to write.
        join: Address of a table whose columns are added.
        on: The column by which it is joined, or `ours=theirs`; None for the image id.

    Raises:
        ConfigError: an argument is wrong; names it.
        DatasetError: the table cannot be joined.
        StorageError: it cannot be read.
    """
    if on is not None and join is None:
        raise ConfigError("--on: is the column of --join; give a table to join", setting="on")
    wanted = split_names(columns)
    if where is None and join is None:
        yield _whole(output, wanted)
        return
    with scratch_database(_MEMORY_BYTES) as database:
        taken = [*output.columns.names, *output.prompts]
        joined = None if join is None else join_table(database, output, join, on or IMAGE_ID, taken)
        confine(database)
        whole = _whole(output, wanted, joined)
        yield whole if where is None else _filtered(whole, database, where)


def _whole(
    output: FinishedOutput, wanted: list[str] | None, joined: JoinedTable | None = None
) -> Selection:
    """Return all rows of an output, with the wanted columns."""
    columns = pa.schema([*output.columns, *(joined.columns if joined else ())])
    own = dict(zip(columns.names, columns.types, strict=True))
    # Conditions on reviews hold for any output, whether somebody has reviewed it or not.
    types = dict(zip(EDIT_MARKS.names, EDIT_MARKS.types, strict=True)) | own | _prompt_types(output)
    chosen = None if wanted is None else chosen_columns(wanted, types, columns.names)
    return Selection(
        output=output,
        parts=output.parts,
        columns=columns,
        types=types,
        chosen=chosen,
        joined=joined,
    )


def _prompt_types(output: FinishedOutput) -> dict[str, pa.DataType]:
    """Return the types of the columns of named prompts, which depend on the run."""
    if not output.prompts:
        return {}
    first = next(replace(output, parts=output.parts[:1]).pages(list(output.prompts)))
    return dict(zip(first.column_names, first.schema.types, strict=True))


def _filtered(whole: Selection, database: "duckdb.DuckDBPyConnection", condition: str) -> Selection:
    """Return the rows for which a condition holds. It is computed once, also if it is random."""
    types = whole.types
    _matching(database, pa.schema(list(types.items())).empty_table(), condition, types)
    needed = named_columns(condition, list(types)) or [IMAGE_ID]
    kept: dict[int, pa.BooleanArray] = {}
    num_rows = 0
    for number, page in zip(whole.parts, whole.pages(needed), strict=True):
        is_kept = np.zeros(len(page), bool)
        is_kept[_matching(database, page, condition, types).to_numpy()] = True
        num_rows += int(is_kept.sum())
        kept[number] = pa.array(is_kept)  # a bit per row
    return replace(
        whole,
        parts=[number for number in whole.parts if kept[number].true_count],
        kept=kept,
        num_left_out=whole.num_images - num_rows,
    )


def _matching(
    database: "duckdb.DuckDBPyConnection",
    page: pa.Table,
    condition: str,
    types: Mapping[str, pa.DataType],
) -> pa.ChunkedArray:
    try:
        return matching_rows(database, page, condition)
    except SqlError as error:
        names = f"; {described(types)}" if error.is_of_names else ""
        raise ConfigError(f"--where: {error}{names}", setting="where") from error
