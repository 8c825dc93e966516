"""A table of the user, joined to the rows of an output on disk, whatever the size of either."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.captioning.output import FinishedOutput
from raycap.config import StorageConfig
from raycap.datasets.readers.files import AnnotationFile, guarded, open_file, paged
from raycap.datasets.readers.rows import text_of
from raycap.datasets.readers.table_rows import TABLE_SUFFIXES, read_rows
from raycap.errors import ConfigError, DatasetError
from raycap.schema import PART, ROW
from raycap.scratch import SqlError, sql_errors

if TYPE_CHECKING:
    import duckdb

_PAGE_ROWS = 8_192
_NUM_SHOWN = 5
_KEY = "key"
_SUFFIX = "_joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedTable:
    """The columns of a user's table, for every row of an output."""

    database: "duckdb.DuckDBPyConnection"
    columns: pa.Schema
    """Its columns without the key, under the names that they have in an export."""
    num_images_without: int
    """Images for which it has no row."""
    num_rows_without: int
    """Rows for which there is no image."""
    renamed: dict[str, str]
    """Columns whose name the output has too, and their names in an export."""

    def of(self, part: int) -> pa.Table:
        """Return the columns for the rows of a part, in their order; safe in any thread."""
        with self.database.cursor() as cursor:
            found = cursor.sql(
                f"SELECT * EXCLUDE {PART} FROM joined WHERE {PART} = {part:d} ORDER BY {ROW}"
            ).to_arrow_table()
        return found.drop_columns([ROW]).rename_columns(self.columns.names).cast(self.columns)


def join_table(
    database: "duckdb.DuckDBPyConnection",
    source: FinishedOutput,
    uri: str,
    on: str,
    taken: Collection[str],
) -> JoinedTable:
    """Join a table to the rows of an output by a column with the same text in both.

    Args:
        database: Gets the tables; larger ones go to the disk.
        source: The output.
        uri: The table: Parquet, CSV, TSV, JSON or JSON Lines, anywhere.
        on: The column, or `ours=theirs` if its names differ.
        taken: Names of columns that the table's columns must not have; those get a suffix.

    Raises:
        ConfigError: it is no such file, or a column does not exist.
        DatasetError: it cannot be parsed, or has two rows for one key.
        StorageError: it cannot be read.
    """
    ours, _, theirs = on.partition("=")
    theirs = theirs or ours
    if ours not in source.columns.names:
        raise ConfigError(
            f"--on: the output has no column {ours!r}; its columns are: "
            f"{', '.join(source.columns.names)}",
            setting="on",
        )
    names = _load(database, _table_file(uri, source.config), theirs)
    _check_unique(database, uri, theirs)
    _load_keys(database, source, ours)
    database.execute("SET preserve_insertion_order = true")  # pages are found by zone maps
    columns = "".join(f", theirs.{column}" for column in names)
    database.execute(
        f"CREATE TABLE joined AS SELECT ours.{PART}, ours.{ROW}{columns} "
        f"FROM ours LEFT JOIN theirs ON ours.{_KEY} = theirs.{_KEY} "
        f"ORDER BY ours.{PART}, ours.{ROW}"
    )
    num_images_without = _count(database, "ours", "theirs")
    num_rows_without = _count(database, "theirs", "ours")
    database.execute("DROP TABLE ours")
    database.execute("DROP TABLE theirs")
    shown = _free_names(list(names.values()), taken)
    found = database.sql(f"SELECT * EXCLUDE {PART} FROM joined LIMIT 0").to_arrow_table()
    types = found.drop_columns([ROW]).schema.types
    return JoinedTable(
        database=database,
        columns=pa.schema(list(zip(shown, types, strict=True))),
        num_images_without=num_images_without,
        num_rows_without=num_rows_without,
        renamed={name: new for name, new in zip(names.values(), shown, strict=True) if name != new},
    )


def _table_file(uri: str, config: StorageConfig) -> AnnotationFile:
    file = open_file(uri, config)
    if file.suffix not in TABLE_SUFFIXES:
        raise ConfigError(
            f"{file.uri}: is no table that can be joined; give a file whose name ends with one of: "
            f"{', '.join(TABLE_SUFFIXES)}",
            uri=file.uri,
            setting="join",
        )
    return file


def _load(database: "duckdb.DuckDBPyConnection", file: AnnotationFile, key: str) -> dict[str, str]:
    """Load a table as `theirs`; return the names of its columns by those that they have there."""
    pages = _parquet_pages(file) if file.suffix == ".parquet" else None
    texts: set[str] = set()
    names: dict[str, str] = {}
    for page in pages or _text_pages(file, texts):
        try:
            with sql_errors():
                _add_page(database, page, names)
        except SqlError as error:
            raise DatasetError(f"{file.uri}: cannot be joined: {error}", uri=file.uri) from error
    by_name = {name: column for column, name in names.items()}
    if key not in by_name:
        raise ConfigError(
            f"--on: {file.uri} has no column {key!r}; its columns are: "
            f"{', '.join(by_name) or 'none'}",
            uri=file.uri,
            setting="on",
        )
    if pages is None:
        for name, column in by_name.items():
            if name != key and name not in texts:
                _type_by_content(database, column)
    database.execute(f"ALTER TABLE theirs ALTER {by_name[key]} TYPE VARCHAR")
    database.execute(f"ALTER TABLE theirs RENAME {by_name[key]} TO {_KEY}")
    return {column: name for column, name in names.items() if name != key}


def _add_page(database: "duckdb.DuckDBPyConnection", page: pa.Table, names: dict[str, str]) -> None:
    """Append a page to `theirs`, which gets the columns that are new; `names` are noted."""
    by_name = {name: column for column, name in names.items()}
    is_first = not names
    new = [name for name in page.column_names if name not in by_name]
    for name in new:
        by_name[name] = f"c{len(names)}"
        names[by_name[name]] = name
    renamed = page.rename_columns([by_name[name] for name in page.column_names])
    database.register("page", renamed)
    if is_first:
        database.execute("CREATE TABLE theirs AS SELECT * FROM page LIMIT 0")
    else:
        for name in new:  # rows of JSON may differ in their names
            database.execute(f"ALTER TABLE theirs ADD COLUMN {by_name[name]} VARCHAR")
    database.execute("INSERT INTO theirs BY NAME SELECT * FROM page")
    database.unregister("page")


def _parquet_pages(file: AnnotationFile) -> Iterator[pa.Table]:
    with file.open() as data:
        opened = guarded(file, "parquet", _batches(data))
        for batch in opened:
            yield pa.Table.from_batches([batch])


def _batches(data: Any) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(data, buffer_size=1_048_576)
    names = parquet.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError("it has two columns of the same name")
    empty = parquet.schema_arrow.empty_table().to_batches(max_chunksize=1)
    first = pa.RecordBatch.from_pylist([], schema=parquet.schema_arrow)
    yield from chain(empty or [first], parquet.iter_batches(batch_size=_PAGE_ROWS))


def _text_pages(file: AnnotationFile, texts: set[str]) -> Iterator[pa.Table]:
    """Yield the rows of a table of text, all values as texts.

    Args:
        file: CSV, TSV, JSON or JSON Lines.
        texts: gets the names of the columns in which a value of JSON was a text.
    """
    is_json = file.suffix not in (".csv", ".tsv")
    header: list[str] = []

    def note(columns: pa.Schema) -> list[str]:
        header.extend(name for name in columns.names if name not in header)
        return header

    for page in paged(read_rows(file, choose_columns=note, is_strict=True), _PAGE_ROWS):
        names = list(dict.fromkeys(chain(header, *page)))
        columns = {name: [_as_text(row.get(name)) for row in page] for name in names}
        if is_json:
            texts.update(n for n in names if any(isinstance(row.get(n), str) for row in page))
        yield pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
        header = header or names
    if header:
        yield pa.table({name: pa.array([], pa.string()) for name in header})


def _as_text(value: Any) -> str | None:
    """Return a value as text; a text that Arrow cannot hold with its lone surrogates replaced."""
    if value is None:
        return None
    if isinstance(value, str):
        return value if text_of(value) is not None else value.encode("utf-8", "replace").decode()
    return json.dumps(value, ensure_ascii=False)


_NUMBERS = {
    # As written again, so that 007 remains a text.
    "BIGINT": "{0} = try_cast({0} AS BIGINT)::VARCHAR",
    "DOUBLE": r"regexp_full_match({0}, '-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?')",
    "BOOLEAN": "lower({0}) IN ('true', 'false')",
}


def _type_by_content(database: "duckdb.DuckDBPyConnection", column: str) -> None:
    """Give a column of texts the type that all of them have; empty ones become null."""
    for kind, test in _NUMBERS.items():
        is_kind = database.execute(
            f"SELECT coalesce(bool_and(coalesce({test.format(column)}, false)), false) FROM theirs "
            f"WHERE {column} <> ''"
        ).fetchone()
        if is_kind == (True,):
            database.execute(
                f"ALTER TABLE theirs ALTER {column} TYPE {kind} "
                f"USING CAST(nullif({column}, '') AS {kind})"
            )
            return


def _check_unique(database: "duckdb.DuckDBPyConnection", uri: str, key: str) -> None:
    """Raise DatasetError if several rows have the same key: which one counts, nobody said."""
    repeated = (
        f"SELECT {_KEY} FROM theirs WHERE {_KEY} IS NOT NULL GROUP BY {_KEY} HAVING count(*) > 1"
    )
    (num_repeated,) = database.execute(f"SELECT count(*) FROM ({repeated})").fetchone() or (0,)
    if num_repeated:
        rows = database.execute(f"{repeated} ORDER BY {_KEY} LIMIT {_NUM_SHOWN}").fetchall()
        more = ", ..." if num_repeated > len(rows) else ""
        values = f"{num_repeated:,} values of {key!r} are"
        if num_repeated == 1:
            values = f"a value of {key!r} is"
        raise DatasetError(
            f"{uri}: {values} in several rows "
            f"({', '.join(repr(value) for (value,) in rows)}{more}); keep one row of each",
            uri=uri,
            setting="on",
        )


def _load_keys(database: "duckdb.DuckDBPyConnection", source: FinishedOutput, column: str) -> None:
    database.execute(f"CREATE TABLE ours ({PART} BIGINT, {ROW} BIGINT, {_KEY} VARCHAR)")
    for number, page in zip(source.parts, source.pages([column]), strict=True):
        keys = page[column].cast(pa.string())
        columns = {
            PART: pa.array([number] * len(page), pa.int64()),
            ROW: pa.array(range(len(page)), pa.int64()),
            _KEY: keys,
        }
        database.register("page", pa.table(columns))
        database.execute("INSERT INTO ours SELECT * FROM page")
        database.unregister("page")


def _count(database: "duckdb.DuckDBPyConnection", of: str, without: str) -> int:
    """Count the rows of one table whose key the other does not have."""
    (count,) = database.execute(
        f"SELECT count(*) FROM {of} ANTI JOIN {without} ON {of}.{_KEY} = {without}.{_KEY}"
    ).fetchone() or (0,)
    return int(count)


def _free_names(names: list[str], taken: Collection[str]) -> list[str]:
    """Return names that differ from others and from one another; SQL does not mind their case."""
    used = {name.lower() for name in taken}
    found = []
    for name in names:
        while name.lower() in used:
            name += _SUFFIX
        used.add(name.lower())
        found.append(name)
    return found
