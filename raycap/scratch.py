"""Scratch tables: sorting, grouping and joining data larger than memory, with DuckDB.

Conditions that users write in SQL are evaluated here too.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

_NUMBER = "raycap_row_number"


@contextmanager
def scratch_database(memory_bytes: int) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Open a database that exists within the block, and uses the disk beyond `memory_bytes`.

    Text sorts and compares in UTF-8 byte order, as image ids do everywhere in raycap. The database
    does not use the network.
    """
    import duckdb  # noqa: PLC0415  most commands need none of it

    with tempfile.TemporaryDirectory(prefix="raycap-scratch-") as folder:
        connection = duckdb.connect(
            str(Path(folder) / "scratch.duckdb"),
            config={
                "memory_limit": f"{memory_bytes}B",
                "temp_directory": folder,
                "threads": os.cpu_count() or 1,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "preserve_insertion_order": False,
            },
        )
        try:
            _hide_progress(connection)
            yield connection
        finally:
            connection.close()


def _hide_progress(connection: "duckdb.DuckDBPyConnection") -> None:
    """Switch DuckDB's progress bar off, which it shows if Python looks interactive.

    In a notebook without `ipywidgets` it shows none, and lets nobody set that.
    """
    asked = connection.execute("SELECT current_setting('enable_progress_bar')")
    if asked.fetchall() != [(False,)]:
        connection.execute("SET enable_progress_bar = false")


class SqlError(ValueError):
    """What SQL cannot compute; its message is one line."""

    def __init__(self, message: str, *, is_of_names: bool = False) -> None:
        super().__init__(message)
        self.is_of_names = is_of_names
        """Whether it is about a name or a type: the names of the columns help then."""


@cache
def condition_database() -> "duckdb.DuckDBPyConnection":
    """Return a confined database of this process in memory, for conditions on small tables."""
    import duckdb  # noqa: PLC0415  most commands need none of it

    database = duckdb.connect(config={"autoinstall_known_extensions": False})
    _hide_progress(database)
    confine(database)
    return database


def confine(database: "duckdb.DuckDBPyConnection") -> None:
    """Forbid a database files, the network and changes of its settings from here on."""
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


def named_columns(condition: str, names: Sequence[str]) -> list[str]:
    """Return the columns that a condition in SQL may use: they are spelled in it, whatever case."""
    text = condition.lower()
    is_any = "columns" in text or '"' in text
    return [name for name in names if is_any or name.lower() in text]


def matching_rows(
    database: "duckdb.DuckDBPyConnection", table: pa.Table, condition: str
) -> pa.ChunkedArray:
    """Return the numbers of the rows of a table for which a condition holds, in any order.

    Args:
        database: confined, because the condition is a user's.
        table: its columns are those that the condition may name.
        condition: an expression of SQL.

    Raises:
        SqlError: it is no such expression, names other columns, or cannot be computed.
    """
    numbered = table.append_column(_NUMBER, pa.array(range(len(table)), pa.int64()))
    with sql_errors(), database.cursor() as cursor:
        found = cursor.from_arrow(numbered).filter(condition).project(_NUMBER)
        return found.to_arrow_table()[_NUMBER]


@contextmanager
def sql_errors() -> Iterator[None]:
    """Raise SqlError for what DuckDB, or Arrow on the way to it, cannot compute in the block."""
    import duckdb  # noqa: PLC0415  most commands need none of it

    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SqlError(
            lines[0].rstrip("!") if lines else type(error).__name__,
            is_of_names=isinstance(error, duckdb.BinderException),
        ) from error


def relation_of(
    rows: object, connection: "duckdb.DuckDBPyConnection | None" = None
) -> "duckdb.DuckDBPyRelation":
    """Return a relation over rows that have Arrow's stream interface; each evaluation reads them.

    Args:
        rows: that `__arrow_c_stream__` gives.
        connection: that the relation belongs to; None for a new database in memory.
    """
    import duckdb  # noqa: PLC0415  as above

    if connection is None:
        connection = duckdb.connect(config={"autoinstall_known_extensions": False})
        _hide_progress(connection)
    return connection.from_arrow(rows)
