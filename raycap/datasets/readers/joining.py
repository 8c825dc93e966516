"""Joining images with captions that a source gives in unrelated orders; beyond memory, on disk."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.scratch import scratch_database

KEY = "key"
POSITION = "position"
_FIELDS = [field for field in schema.ANNOTATIONS if field.name != schema.CAPTION]
_MEMORY_BYTES = 256_000_000
_PAGE_ROWS = 8_192

KEYED_IMAGES = pa.schema([pa.field(KEY, pa.string(), nullable=False), *_FIELDS])
"""An image, and the key by which its captions know it."""
KEYED_CAPTIONS = pa.schema(
    [pa.field(KEY, pa.string(), nullable=False), pa.field(schema.CAPTION, pa.string())]
)
"""A caption, and the key of its images."""

_COLUMNS = ", ".join(f"image.{field.name}" for field in _FIELDS if field.name != schema.IMAGE_ID)
_JOIN = f"""
    SELECT coalesce(image.{schema.IMAGE_ID}, caption.{KEY}) AS {schema.IMAGE_ID}, {_COLUMNS},
           caption.{schema.CAPTION}
    FROM images AS image FULL JOIN captions AS caption ON image.{KEY} = caption.{KEY}
    ORDER BY image.{POSITION} NULLS LAST, caption.{POSITION}
"""


class ScratchTable:
    """A table of a scratch database, with a column `position` that numbers its rows."""

    def __init__(self, database: duckdb.DuckDBPyConnection, name: str, columns: pa.Schema) -> None:
        self._database = database
        self._name = name
        self._num_rows = 0
        empty = columns.append(pa.field(POSITION, pa.int64())).empty_table()
        self._with_page(f"CREATE TABLE {name} AS SELECT * FROM page", empty)

    def add(self, table: pa.Table) -> None:
        """Add rows, in their order."""
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
    """Images and captions, gathered in any order, that come out joined by their keys.

    `images` takes KEYED_IMAGES, `captions` KEYED_CAPTIONS; `database` holds them by these names.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self.database = database
        self.images = ScratchTable(database, "images", KEYED_IMAGES)
        self.captions = ScratchTable(database, "captions", KEYED_CAPTIONS)

    def tables(self) -> Iterator[pa.Table]:
        """Give ANNOTATIONS: images in their order, each with its captions in theirs.

        Images of one key all have its captions; one without any has one row, with a null.
        Captions without an image come last, under their key, without a `uri`.
        """
        for batch in self.database.sql(_JOIN).to_arrow_reader(_PAGE_ROWS):
            yield pa.Table.from_batches([batch]).cast(schema.ANNOTATIONS)


@contextmanager
def scratch_join() -> Iterator[ScratchJoin]:
    """Begin a join, which lives within the block; its memory does not grow with its rows."""
    with scratch_database(_MEMORY_BYTES) as database:
        database.execute("SET threads = 2")  # one reads the source, and each takes memory
        yield ScratchJoin(database)
