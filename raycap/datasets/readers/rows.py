"""Rows of annotations: what is text, an id and a split, and tables made of rows.

Also joins of images with captions that a source gives in unrelated orders; large ones use the disk.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from raycap import schema
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.files import NOT_UTF8, AnnotationFile, list_files, paged
from raycap.datasets.readers.image_folders import is_absolute
from raycap.datasets.splits import known_word, split_in_name
from raycap.errors import DatasetError
from raycap.scratch import scratch_database
from raycap.storage.address import redact
from raycap.storage.base import Store

if TYPE_CHECKING:
    import duckdb

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


class Caption(NamedTuple):
    """A caption, or why it cannot be read; neither where there is none."""

    text: str | None
    fault: str | None = None


_MOST_NESTED = 3
_MESSAGE_CHARS = 60


def captions_of(value: Any, most_nested: int = _MOST_NESTED) -> list[Caption]:
    """Return the captions in a value of JSON: a text, a number, or a list of these."""
    if isinstance(value, list) and most_nested:
        found = [caption for item in value for caption in captions_of(item, most_nested - 1)]
        return found or [Caption(None)]
    return [_caption_of(value)]


def _caption_of(value: Any) -> Caption:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Caption(None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return Caption(None, f"it is no text but a value of type {type(value).__name__}")
    text = text_of(value)
    return Caption(text, NOT_UTF8 if text is None else None)


def name_id(name: str) -> str:
    """Return the id of an image that its name in the source gives: an address without secrets."""
    return redact(name) if is_absolute(name) else name.removeprefix("./")


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
    """Yield the files of a folder that have a suffix, each with the split in its name, if any.

    Raises:
        DatasetError: there are no such files.
    """
    is_empty = True
    for file in list_files(store, (suffix,)):
        is_empty = False
        yield file, split_in_name(file.key)
    if is_empty:
        raise DatasetError(f"{store.uri}: contains no {suffix} files", uri=store.uri)


KEY = "key"
POSITION = "position"
_FIELDS = [f for f in schema.ANNOTATIONS if f.name not in (schema.CAPTION, schema.FAULT)]
_MEMORY_BYTES = 256_000_000

KEYED_IMAGES = pa.schema([pa.field(KEY, pa.string(), nullable=False), *_FIELDS])
"""An image, and the key that its captions refer to."""
KEYED_CAPTIONS = pa.schema(
    [
        pa.field(KEY, pa.string(), nullable=False),
        pa.field(schema.CAPTION, pa.string()),
        pa.field(schema.FAULT, pa.string()),
    ]
)
"""A caption, and the key of the images it belongs to."""

_COLUMNS = ", ".join(f"image.{field.name}" for field in _FIELDS if field.name != schema.IMAGE_ID)
_JOIN = f"""
    SELECT coalesce(image.{schema.IMAGE_ID}, caption.{KEY}) AS {schema.IMAGE_ID}, {_COLUMNS},
           caption.{schema.CAPTION}, caption.{schema.FAULT}
    FROM images AS image FULL JOIN captions AS caption ON image.{KEY} = caption.{KEY}
    ORDER BY image.{POSITION} NULLS LAST, caption.{POSITION}
"""


_DROP_REPEATED = f"""
    DELETE FROM images WHERE {POSITION} NOT IN (
        SELECT min({POSITION}) FROM images GROUP BY {KEY}, {schema.IMAGE_ID}, {schema.URI}
    )
"""


class ScratchTable:
    """A table of a scratch database, whose column `position` numbers its rows."""

    def __init__(
        self, database: "duckdb.DuckDBPyConnection", name: str, columns: pa.Schema
    ) -> None:
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

    def __init__(self, database: "duckdb.DuckDBPyConnection") -> None:
        self.database = database
        self.images = ScratchTable(database, "images", KEYED_IMAGES)
        self.captions = ScratchTable(database, "captions", KEYED_CAPTIONS)

    def drop_repeated_images(self) -> None:
        """Drop images that were added before with the same key: each would get all captions."""
        self.database.execute(_DROP_REPEATED)

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
