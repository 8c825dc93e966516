"""The index of a review: a table of the captions in a scratch database, read once at the start.

An *item* is the answer to one prompt about one image. Items are numbered from 0: first those of the
first prompt in the order of the output, then those of the next prompt. So the item of the same
image and another prompt is found by adding the number of images, and a list of items is an array of
numbers. The index has what the filters and the page need; captions and their state change with the
edits. Nothing of it outlives the review.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64

from raycap import schema
from raycap.captioning.output import SOURCE_URI, FinishedOutput
from raycap.progress import OnProgress, Progress
from raycap.scratch import scratch_database
from raycap.storage.parallel import ordered_map

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ITEM = "item"
ORIGINAL = "original"
FOLDED = "folded"
"""Caption and image id in small letters, for searching."""
REVIEW = "review"
STALE = "stale"
VERSION = "version"
KEPT = "kept"

ITEMS = pa.schema(
    [
        pa.field(ITEM, pa.int64(), nullable=False),
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(schema.URI, pa.string(), nullable=False),
        pa.field(SOURCE_URI, pa.string(), nullable=False),
        pa.field(schema.ETAG, pa.string()),
        pa.field(schema.DIGEST, pa.string()),
        pa.field(schema.STATUS, pa.string(), nullable=False),
        pa.field(schema.ERROR_CODE, pa.string()),
        pa.field(schema.ERROR_MESSAGE, pa.string()),
        pa.field(ORIGINAL, pa.string()),
        pa.field(schema.NUM_WORDS, pa.int32()),
        pa.field(schema.LOGPROB, pa.float32()),
        pa.field(schema.WIDTH_PX, pa.int32()),
        pa.field(schema.HEIGHT_PX, pa.int32()),
        pa.field(schema.MODEL, pa.string()),
        pa.field(schema.FINISH, pa.string()),
        pa.field(schema.FLAG, pa.string()),
        pa.field(schema.ALTERNATIVES, pa.list_(pa.string())),
        pa.field(KEPT, pa.list_(pa.string())),
    ]
)
"""What the captions parts say of an item. `original` is the caption that the model wrote."""

STATES = pa.schema(
    [
        pa.field(ITEM, pa.int64(), nullable=False),
        pa.field(schema.CAPTION, pa.string()),
        pa.field(schema.NUM_WORDS, pa.int32()),
        pa.field(REVIEW, pa.string()),
        pa.field(STALE, pa.bool_(), nullable=False),
        pa.field(VERSION, pa.string()),
    ]
)
"""What the edits make of an item: its text and state, and the id of the last edit."""

_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float32(): "FLOAT",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.list_(pa.string()): "VARCHAR[]",
}
_INSERTED_ROWS = 100_000
_FEW_ITEMS = 500
_FACETS = (schema.ERROR_CODE, schema.FLAG, schema.FINISH)

Texts = Iterable[pa.Table]
"""Tables of `image_id` and `texts`, a list."""
TEXTS = "texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Texts that are shown beside the captions: of another output, or references."""

    name: str
    tables: Callable[[], Texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the images by an evaluation."""

    metrics: tuple[str, ...]
    key: str
    """Column by which its images are found: `image_id` or `uri`."""
    tables: Callable[[], Iterable[pa.Table]]
    """Returns tables of the key, `caption` and the metrics."""


@dataclass(kw_only=True)
class Index:
    """The table of the captions; safe to use from many threads."""

    connection: "DuckDBPyConnection"
    num_images: int
    prompts: tuple[str | None, ...]
    """The prompts of the run; a single None in a run without named prompts."""
    keep: tuple[str, ...]
    """Names of the fields in `kept`."""
    beside: tuple[str, ...] = ()
    """Names of the texts beside the captions."""
    metrics: tuple[str, ...] = ()
    facets: dict[str, list[str]] = field(default_factory=dict)
    """The values of each column of closed values."""
    _writing: Lock = field(default_factory=Lock)

    @property
    def num_items(self) -> int:
        """Items of all prompts."""
        return self.num_images * len(self.prompts)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        cursor = self.connection.cursor()
        relation = cursor.sql(sql, params=list(parameters))
        found: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
        return found

    def column(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the only column of a query as an array; null is masked."""
        cursor = self.connection.cursor()
        (found,) = cursor.execute(sql, list(parameters)).fetchnumpy().values()
        return found

    def where(self, condition: str, parameters: Sequence[Any] = ()) -> Bool[np.ndarray, " items"]:
        """Return which items meet a condition."""
        chosen = np.zeros(self.num_items, bool)
        sql = f"SELECT item FROM items WHERE {condition}"
        chosen[np.asarray(self.column(sql, parameters))] = True
        return chosen

    def values(self, expression: str) -> Float[np.ndarray, " items"]:
        """Return a number per item; NaN where there is none."""
        cursor = self.connection.cursor()
        found = cursor.execute(f"SELECT item, {expression} AS key FROM items").fetchnumpy()
        values = np.full(self.num_items, np.nan)
        values[np.asarray(found[ITEM])] = np.ma.filled(found["key"].astype(float), np.nan)
        return values

    def rows(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of items, in their order."""
        if not items:
            return []
        cursor = self.connection.cursor()
        if len(items) <= _FEW_ITEMS:  # found by the index
            chosen = f"FROM items WHERE item IN ({', '.join(map(str, items))})"
        else:
            cursor.register("wanted", pa.table({ITEM: pa.array(items, pa.int64())}))
            chosen = "FROM items SEMI JOIN wanted USING (item)"
        table = cursor.sql(f"SELECT * EXCLUDE folded {chosen}").to_arrow_table()
        found = {row[ITEM]: row for row in table.to_pylist()}
        return [found[item] for item in items]

    def captions(self, items: Sequence[int]) -> list[tuple[int, str | None]]:
        """Return the captions of items, with their numbers, in no order."""
        cursor = self.connection.cursor()
        cursor.register("wanted", pa.table({ITEM: pa.array(items, pa.int64())}))
        sql = "SELECT item, caption FROM items SEMI JOIN wanted USING (item)"
        found: list[tuple[int, str | None]] = cursor.execute(sql).fetchall()
        return found

    def texts_beside(self, items: Sequence[int]) -> dict[int, dict[str, list[str]]]:
        """Return the texts beside the captions of items: by the image, and by their name."""
        images = {int(item) % self.num_images for item in items}
        found: dict[int, dict[str, list[str]]] = {}
        if not images or not self.beside:
            return found
        numbers = ", ".join(map(str, images))
        for row in self.query(f"SELECT * FROM beside WHERE image IN ({numbers}) ORDER BY number"):
            found.setdefault(row["image"], {})[self.beside[row["number"]]] = row[TEXTS]
        return found

    def find(self, image_ids: Sequence[str]) -> dict[str, int]:
        """Return the numbers of images by their ids; unknown ids are left out."""
        table = pa.table([pa.array(image_ids, pa.string())], [schema.IMAGE_ID])
        cursor = self.connection.cursor()
        cursor.register("wanted", table)
        found = cursor.execute(
            "SELECT image_id, item FROM items SEMI JOIN wanted USING (image_id) WHERE item < ?",
            [self.num_images],
        ).fetchall()
        return dict(found)

    def update(self, states: pa.Table) -> None:
        """Change the text and state of items: STATES, each item once at most."""
        if not len(states):
            return
        with self._writing:
            cursor = self.connection.cursor()
            cursor.register("changed", states)
            names = [name for name in STATES.names if name != ITEM]
            changes = ", ".join(f"{name} = changed.{name}" for name in names)
            # The scores are those of a text, not of the image.
            same = "items.caption IS NOT DISTINCT FROM changed.caption"
            changes += "".join(
                f', "{name}" = CASE WHEN {same} THEN "{name}" END' for name in self.metrics
            )
            folded = f"folded = {_folded('changed.caption', 'items.image_id')}"
            least, most = min_max(states[ITEM])
            cursor.execute(
                f"UPDATE items SET {changes}, {folded} FROM changed "
                "WHERE items.item = changed.item AND items.item BETWEEN ? AND ?",
                [least, most],
            )


def min_max(items: pa.ChunkedArray) -> tuple[int, int]:
    """Return the lowest and the highest number of some items."""
    numbers = items.to_numpy()
    return int(numbers.min()), int(numbers.max())


@contextmanager
def open_index(
    output: FinishedOutput,
    *,
    states: Callable[[pa.Table, str | None], pa.Table],
    beside: Sequence[Beside] = (),
    scores: Scores | None = None,
    memory_bytes: int,
    on_progress: OnProgress,
) -> Iterator[Index]:
    """Read an output into an index, which exists within the block.

    Args:
        output: of a finished run.
        states: Called with ITEMS and their prompt; returns their STATES.
        beside: Texts to show beside the captions.
        scores: Scores to filter and sort by.
        memory_bytes: Memory of the database; the rest is on disk.
        on_progress: Called after each part.

    Raises:
        DatasetError: a part is damaged.
        StorageError: a store refuses.
    """
    with scratch_database(memory_bytes) as connection:
        # Searching reads all texts: unpacking them would take longer than that.
        connection.execute("PRAGMA force_compression = 'uncompressed'")
        connection.execute(f"CREATE TABLE items ({_columns()})")
        prompts: tuple[str | None, ...] = output.prompts or (None,)
        num_images = _load(connection, output, prompts, states, on_progress)
        for number, source in enumerate(beside):
            _load_beside(connection, number, source)
        if beside:
            _join_beside(connection, num_images)
        if scores is not None:
            _join_scores(connection, scores)
        connection.execute("CREATE UNIQUE INDEX of_items ON items (item)")
        yield Index(
            connection=connection,
            num_images=num_images,
            prompts=prompts,
            keep=output.keep,
            beside=tuple(source.name for source in beside),
            metrics=scores.metrics if scores else (),
            facets={name: _facet(connection, name) for name in _FACETS},
        )


def _columns() -> str:
    fields = {one.name: one.type for one in (*ITEMS, *STATES)}
    return ", ".join(
        [*(f"{name} {_TYPES[kind]}" for name, kind in fields.items()), "folded VARCHAR"]
    )


def _folded(caption: str, image_id: str) -> str:
    return f"lower(concat_ws(chr(10), {caption}, {image_id}))"


def _load(
    connection: "DuckDBPyConnection",
    output: FinishedOutput,
    prompts: Sequence[str | None],
    states: Callable[[pa.Table, str | None], pa.Table],
    on_progress: OnProgress,
) -> int:
    """Load the rows of all parts; return the number of images."""

    def read(number: int) -> list[pa.Table]:
        return [replace(output, prompt=prompt).part(number) for prompt in prompts]

    num_done = 0
    gathered: list[tuple[pa.Table, pa.Table]] = []
    for tables in ordered_map(read, output.parts, output.read_ahead):
        for place, (prompt, table) in enumerate(zip(prompts, tables, strict=True)):
            first = place * output.num_images + num_done
            items = _items(table, first, output.keep)
            gathered.append((items, states(items, prompt)))
        num_done += len(tables[0])
        if sum(len(items) for items, _ in gathered) >= _INSERTED_ROWS:
            _insert(connection, gathered)
            gathered = []
        on_progress(
            Progress(
                num_done=num_done,
                num_total=output.num_images,
                num_failed=0,
                images_per_s=0.0,
                stage="reading captions",
            )
        )
    _insert(connection, gathered)
    return num_done


def _items(table: pa.Table, first: int, keep: Sequence[str]) -> pa.Table:
    """Return ITEMS of the rows of a part."""
    numbers = pa.array(np.arange(first, first + len(table)))
    kept = [
        list(values) for values in zip(*(table[name].to_pylist() for name in keep), strict=True)
    ]
    columns = {
        ITEM: numbers,
        ORIGINAL: table[schema.CAPTION],
        schema.ALTERNATIVES: _texts(table[schema.ALTERNATIVES]),
        KEPT: pa.array(kept if keep else [None] * len(table), pa.list_(pa.string())),
    }
    return pa.table(
        [columns.get(name, table[name] if name not in columns else None) for name in ITEMS.names],
        schema=ITEMS,
    )


def _texts(alternatives: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the captions in lists of alternatives."""
    lists = pa.concat_arrays([pa.array([], alternatives.type), *alternatives.chunks])
    captions = pc.struct_field(lists.flatten(), schema.CAPTION)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, captions.cast(pa.string()))])


def _insert(
    connection: "DuckDBPyConnection", gathered: Sequence[tuple[pa.Table, pa.Table]]
) -> None:
    """Insert ITEMS with their STATES; many at once, because each insertion is written to disk."""
    if not gathered:
        return
    items = pa.concat_tables([one for one, _ in gathered])
    states = pa.concat_tables([one for _, one in gathered])
    for one in STATES:
        at, column = items.schema.get_field_index(one.name), states[one.name]
        items = items.append_column(one, column) if at < 0 else items.set_column(at, one, column)
    connection.register("page", items)
    folded = _folded("caption", "image_id")
    connection.execute(f"INSERT INTO items BY NAME SELECT *, {folded} AS folded FROM page")
    connection.unregister("page")


def _load_beside(connection: "DuckDBPyConnection", number: int, source: Beside) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS staged (number INTEGER, image_id VARCHAR, texts VARCHAR[])"
    )
    for table in source.tables():
        connection.register("page", table)
        connection.execute("INSERT INTO staged SELECT ?, image_id, texts FROM page", [number])
        connection.unregister("page")


def _join_beside(connection: "DuckDBPyConnection", num_images: int) -> None:
    """Give the texts the numbers of their images; those of other images are left out."""
    connection.execute(
        "CREATE TABLE beside AS SELECT item AS image, number, texts "
        f"FROM staged JOIN items USING (image_id) WHERE item < {num_images} ORDER BY image, number"
    )
    connection.execute("DROP TABLE staged")


def _join_scores(connection: "DuckDBPyConnection", scores: Scores) -> None:
    """Give items the scores of their text."""
    columns = ", ".join(f'"{name}" DOUBLE' for name in scores.metrics)
    names = ", ".join(f'"{name}"' for name in (scores.key, schema.CAPTION, *scores.metrics))
    connection.execute(f'CREATE TABLE scored ("{scores.key}" VARCHAR, caption VARCHAR, {columns})')
    for table in scores.tables():
        connection.register("page", table)
        connection.execute(f"INSERT INTO scored SELECT {names} FROM page")
        connection.unregister("page")
    chosen = ", ".join(f'any_value(scored."{name}") AS "{name}"' for name in scores.metrics)
    connection.execute(
        f"CREATE TABLE scores_of AS SELECT item, {chosen} FROM items JOIN scored "
        f"ON items.{scores.key} = scored.{scores.key} AND items.caption = scored.caption "
        "GROUP BY item"
    )
    connection.execute(
        "CREATE TABLE whole AS SELECT items.*, scores_of.* EXCLUDE item "
        "FROM items LEFT JOIN scores_of USING (item) ORDER BY item"
    )
    for statement in ("DROP TABLE items", "DROP TABLE scored", "DROP TABLE scores_of"):
        connection.execute(statement)
    connection.execute("ALTER TABLE whole RENAME TO items")


def _facet(connection: "DuckDBPyConnection", name: str) -> list[str]:
    sql = f"SELECT DISTINCT {name} FROM items WHERE {name} IS NOT NULL ORDER BY {name}"
    return [value for (value,) in connection.execute(sql).fetchall()]


def untouched(items: pa.Table) -> pa.Table:
    """Return STATES of items that nobody has edited."""
    nothing = pa.nulls(len(items), pa.string())
    unchanged = pa.array(np.zeros(len(items), bool))
    return pa.table(
        [items[ITEM], items[ORIGINAL], items[schema.NUM_WORDS], nothing, unchanged, nothing],
        schema=STATES,
    )


Numbers = Int64[np.ndarray, " n"]
"""Numbers of items."""
