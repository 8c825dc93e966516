"""Duplicates and totals over all images, from the results of the parts, in scratch tables.

`answers` has ANSWERED with the number of the part, `words` the tokens of each part.
`find_duplicates` adds `duplicates` and `kept`, in which `final` is the final split of an image.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.datasets.grouping import Rejection
from raycap.datasets.parts import (
    ANSWERED,
    ANSWERED_PARTS,
    MOVED,
    MOVES,
    WORDS,
    encode_table,
    read_table,
)
from raycap.datasets.planning import DatasetPlan
from raycap.errors import DatasetError
from raycap.results.dataset import Duplicates, Leakage, Spread
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import part_key

_NUM_EXAMPLES = 5
_PAGE_ROWS = 8_192

# The image of a group that is in the smallest subset is in all subsets, so the group has the same
# split in every subset, although it may have more images in larger ones.
_DUPLICATES = """
CREATE TABLE duplicates AS
SELECT part, image_id, digest, split, stored_in,
       CASE WHEN is_given THEN split
            ELSE first_value(split) OVER (PARTITION BY digest ORDER BY rank, image_id)
       END AS final
FROM answers
WHERE digest IN (
    SELECT digest FROM answers WHERE digest IS NOT NULL GROUP BY digest HAVING count(*) > 1
)
"""
_KEPT = """
CREATE VIEW kept AS
SELECT answers.*, coalesce(duplicates.final, answers.stored_in) AS final
FROM answers LEFT JOIN duplicates USING (image_id)
WHERE answers.digest IS NOT NULL
"""
_LEAKED = """
SELECT digest, count(*) AS num_images, min(image_id) AS first
FROM duplicates GROUP BY digest HAVING count(DISTINCT final) > 1
"""


def load_answers(
    database: duckdb.DuckDBPyConnection, store: Store, plan: DatasetPlan, num_threads: int
) -> None:
    """Load the results of all planned images.

    Raises:
        DatasetError: a part is damaged, or has no result for one of its images.
    """

    def read(number: int) -> pa.Table:
        return read_table(store, part_key(ANSWERED_PARTS, number), ANSWERED)

    for number, table in enumerate(ordered_map(read, range(plan.num_parts), num_threads)):
        if len(table) != plan.images_of(number):
            raise DatasetError(
                f"{store.address(part_key(ANSWERED_PARTS, number))}: has {len(table)} images of "
                f"{plan.images_of(number)}; delete the file and run the same command again",
                uri=store.address(part_key(ANSWERED_PARTS, number)),
            )
        parts = pa.array([number] * len(table), pa.int64())
        words = pa.table({"word": table[WORDS].combine_chunks().flatten()})
        _insert(database, "answers", table.drop_columns([WORDS]).append_column(schema.PART, parts))
        _insert(database, "words", words)


def _insert(database: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    database.register("page", table)
    database.execute(f"CREATE TABLE IF NOT EXISTS {name} AS SELECT * FROM page LIMIT 0")
    database.execute(f"INSERT INTO {name} SELECT * FROM page")
    database.unregister("page")


def nothing_kept(database: duckdb.DuckDBPyConnection) -> str:
    """Return why no image at all could be read; empty if one could."""
    (num_kept,) = _one_row(database, "SELECT count(digest) FROM answers")
    if num_kept:
        return ""
    counts = ", ".join(f"{images} {code}" for code, (images, _) in count_rejected(database).items())
    example = next(rejections(database)).message
    return (
        f"no image can be read ({counts}; the first: {example}); check where the images are, and "
        "give their folder with --images"
    )


def find_duplicates(database: duckdb.DuckDBPyConnection) -> Duplicates:
    """Find images with equal digests, and choose their final splits.

    Images split by hash get the split of that image of their group which is in the smallest
    subset; splits given by the source are kept.
    """
    database.execute(_DUPLICATES)
    database.execute(_KEPT)
    num_groups, num_images, num_moved = _one_row(
        database,
        "SELECT count(DISTINCT digest), count(*), count(*) FILTER (final <> split) FROM duplicates",
    )
    return Duplicates(num_groups=num_groups, num_images=num_images, num_moved=num_moved)


def write_moves(database: duckdb.DuckDBPyConnection, store: Store) -> list[int]:
    """Write the images of each part that move to another split; return the parts' numbers."""
    query = (
        "SELECT part, image_id, final FROM duplicates WHERE final <> stored_in "
        "ORDER BY part, image_id"
    )
    numbers: list[int] = []
    for number, rows in groupby(_rows(database, query), key=lambda row: row[0]):
        moved = [{schema.IMAGE_ID: image_id, schema.SPLIT: split} for _, image_id, split in rows]
        table = pa.Table.from_pylist(moved, schema=MOVED)
        store.write(part_key(MOVES, number), encode_table(table, MOVED))
        numbers.append(number)
    return numbers


def find_leakage(database: duckdb.DuckDBPyConnection) -> Leakage:
    """Find images with equal digests in different splits."""
    num_groups, num_images = _one_row(
        database, f"SELECT count(*), coalesce(sum(num_images), 0)::BIGINT FROM ({_LEAKED})"
    )
    examples = []
    for digest, _, _ in database.execute(
        f"{_LEAKED} ORDER BY first LIMIT {_NUM_EXAMPLES}"
    ).fetchall():
        rows = database.execute(
            "SELECT final, min(image_id) FROM duplicates WHERE digest = ? GROUP BY 1 ORDER BY 1",
            [digest],
        ).fetchall()
        examples.append(dict(rows))
    return Leakage(num_groups=num_groups, num_images=num_images, examples=examples)


def count_lengths(database: duckdb.DuckDBPyConnection) -> dict[str, dict[int, int]]:
    """Count the captions of each split by their length in tokens."""
    query = (
        "SELECT final, length, count(*) FROM "
        "(SELECT final, unnest(num_tokens) AS length FROM kept) GROUP BY ALL ORDER BY ALL"
    )
    lengths: dict[str, dict[int, int]] = {}
    for split, length, count in database.execute(query).fetchall():
        lengths.setdefault(split, {})[length] = count
    return lengths


def count_words(database: duckdb.DuckDBPyConnection) -> int:
    """Return the number of distinct tokens of all captions."""
    return int(_one_row(database, "SELECT count(*) FROM (SELECT DISTINCT word FROM words)")[0])


def source_bytes(database: duckdb.DuckDBPyConnection) -> int:
    """Return the total size of the original files."""
    return int(_one_row(database, "SELECT coalesce(sum(num_bytes), 0)::BIGINT FROM kept")[0])


def spread(database: duckdb.DuckDBPyConnection, column: str) -> Spread:
    """Return minimum, lower median and maximum of a column; 0 if it is empty."""
    # From counts: DuckDB's own median keeps all values in memory.
    query = f"SELECT {column}, count(*) FROM kept GROUP BY 1 ORDER BY 1"
    counts: list[tuple[int, int]] = database.execute(query).fetchall()
    if not counts:
        return Spread(min=0, median=0, max=0)
    left = (sum(count for _, count in counts) + 1) // 2
    median = counts[0][0]
    for value, count in counts:
        if left > 0:
            median = value
        left -= count
    return Spread(min=counts[0][0], median=median, max=counts[-1][0])


def count_megapixels(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Count images by megapixels: `0-0.125`, `0.125-0.25`, and so on, doubling."""
    query = (
        "SELECT greatest(floor(log2(width_px::DOUBLE * height_px / 1e6))::INT, -4), count(*) "
        "FROM kept GROUP BY 1 ORDER BY 1"
    )
    counts = database.execute(query).fetchall()
    return {
        f"{2.0**power if power > -4 else 0:g}-{2.0 ** (power + 1):g}": count
        for power, count in counts
    }


def count_rejected(database: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    """Count the images that could not be read, and their captions, by error code."""
    query = (
        "SELECT error_code, count(*), sum(len(captions))::BIGINT FROM answers "
        "WHERE error_code IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    return {
        code: (images, captions) for code, images, captions in database.execute(query).fetchall()
    }


def rejections(database: duckdb.DuckDBPyConnection) -> Iterator[Rejection]:
    """Yield the images that could not be read, each followed by its captions, sorted by id."""
    query = (
        "SELECT image_id, uri, captions, error_code, error_message FROM answers "
        "WHERE error_code IS NOT NULL ORDER BY image_id"
    )
    for image_id, uri, captions, code, message in _rows(database, query):
        for caption in (None, *captions):
            yield Rejection(
                image_id=image_id, uri=uri, caption=caption, reason=code, message=message
            )


def part_rows(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    """Yield (part, split, images, captions, first id, last id), sorted by part and split."""
    yield from _rows(
        database,
        "SELECT part, final, count(*), sum(len(num_tokens))::BIGINT, min(image_id), max(image_id) "
        "FROM kept GROUP BY part, final ORDER BY part, final",
    )


def _rows(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
    """Stream a query's rows; `execute` would keep all of them in memory."""
    for batch in database.sql(query).to_arrow_reader(_PAGE_ROWS):
        yield from zip(*(column.to_pylist() for column in batch), strict=True)


def _one_row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Return the only row of an aggregate."""
    (row,) = database.execute(query).fetchall()
    return row
