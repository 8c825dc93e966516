"""Rows of annotations: what is text, an id and a split, and tables made of rows.

Also joins of images with captions that a source gives in unrelated orders; large ones use the disk.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.files import AnnotationFile, list_files, paged
from raycap.datasets.splits import known_word, split_in_name
from raycap.errors import DatasetError
from raycap.scratch import scratch_database
from raycap.storage.base import Store

PAGE_ROWS = 8_192
"""Rows gathered at a time."""


def tables_of(rows: Iterable[AnnotationRow]) -> Iterator[pa.Table]:
    """Make ANNOTATIONS tables of rows."""
    types = schema.ANNOTATIONS.types
    for page in paged(rows, PAGE_ROWS):
        columns = zip(*page, strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        yield pa.table(arrays, schema=schema.ANNOTATIONS)


def text_of(value: Any) -> str | None:
    """Return a value if it is text without lone surrogates, which Arrow cannot store; else None."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def captions_of(value: Any) -> list[str | None]:
    """Return the captions in a text or a list of texts; None for each that is not text."""
    if isinstance(value, list):
        return [text_of(item) for item in value] or [None]
    return [text_of(value)]


def id_of(value: Any) -> str | None:
    """Return an id as text: a text that is not empty, or a whole number; else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value) or None


def unnamed(file: AnnotationFile, number: int, what: str = "row") -> str:
    """Make a name for a row without one, so that it is rejected and counted instead of lost."""
    return f"({what} {number} of {file.name})"


def split_of(value: Any, file: AnnotationFile, number: int) -> str | None:
    """Return the split that a row names; None if it names none.

    Raises:
        DatasetError: raycap does not know the split.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    split = known_word(value) if isinstance(value, str) else None
    if split is None:
        raise DatasetError(
            f"{file.uri}: row {number} has the split {value!r}; allowed are train (training, "
            "restval), validation (val, valid, dev), test (testing) or none at all",
            uri=file.uri,
        )
    return split


def files_with_splits(store: Store, suffix: str) -> Iterator[tuple[AnnotationFile, str | None]]:
    """Yield the files of a folder that have a suffix, each with the split in its name.

    The split is None unless all of them are named after splits.

    Raises:
        DatasetError: there are no such files.
    """
    are_split, is_empty = True, True
    for file in list_files(store, (suffix,)):
        are_split, is_empty = are_split and split_in_name(file.key) is not None, False
    if is_empty:
        raise DatasetError(f"{store.uri}: contains no {suffix} files", uri=store.uri)
    for file in list_files(store, (suffix,)):
        yield file, split_in_name(file.key) if are_split else None


KEY = "key"
POSITION = "position"
_FIELDS = [field for field in schema.ANNOTATIONS if field.name != schema.CAPTION]
_MEMORY_BYTES = 256_000_000

KEYED_IMAGES = pa.schema([pa.field(KEY, pa.string(), nullable=False), *_FIELDS])
"""An image, and the key that its captions refer to."""
KEYED_CAPTIONS = pa.schema(
    [pa.field(KEY, pa.string(), nullable=False), pa.field(schema.CAPTION, pa.string())]
)
"""A caption, and the key of the images it belongs to."""

_COLUMNS = ", ".join(f"image.{field.name}" for field in _FIELDS if field.name != schema.IMAGE_ID)
_JOIN = f"""
    SELECT coalesce(image.{schema.IMAGE_ID}, caption.{KEY}) AS {schema.IMAGE_ID}, {_COLUMNS},
           caption.{schema.CAPTION}
    FROM images AS image FULL JOIN captions AS caption ON image.{KEY} = caption.{KEY}
    ORDER BY image.{POSITION} NULLS LAST, caption.{POSITION}
"""


class ScratchTable:
    """A table of a scratch database, whose column `position` numbers its rows."""

    def __init__(self, database: duckdb.DuckDBPyConnection, name: str, columns: pa.Schema) -> None:
        self._database = database
        self._name = name
        self._num_rows = 0
        empty = columns.append(pa.field(POSITION, pa.int64())).empty_table()
        self._with_page(f"CREATE TABLE {name} AS SELECT * FROM page", empty)

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        end = self._num_rows + len(table)
        positions = pa.array(range(self._num_rows, end), pa.int64())
        page = table.append_column(POSITION, positions)
        self._with_page(f"INSERT INTO {self._name} SELECT * FROM page", page)
        self._num_rows = end

    def _with_page(self, statement: str, page: pa.Table) -> None:
        self._database.register("page", page)
        self._database.execute(statement)
        self._database.unregister("page")


class ScratchJoin:
    """Images and captions, added in any order and joined by their keys.

    `images` takes KEYED_IMAGES, `captions` KEYED_CAPTIONS; `database` has tables of these names.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self.database = database
        self.images = ScratchTable(database, "images", KEYED_IMAGES)
        self.captions = ScratchTable(database, "captions", KEYED_CAPTIONS)

    def tables(self) -> Iterator[pa.Table]:
        """Yield ANNOTATIONS: images in the order added, each with its captions in that order.

        All images of a key have its captions; an image without captions has one row, with a null.
        Captions without an image come last, with their key as id and without a `uri`.
        """
        for batch in self.database.sql(_JOIN).to_arrow_reader(PAGE_ROWS):
            yield pa.Table.from_batches([batch]).cast(schema.ANNOTATIONS)


@contextmanager
def scratch_join() -> Iterator[ScratchJoin]:
    """Open a join for the block; its memory does not grow with the number of rows."""
    with scratch_database(_MEMORY_BYTES) as database:
        database.execute("SET threads = 2")  # another reads the source, and each takes memory
        yield ScratchJoin(database)
