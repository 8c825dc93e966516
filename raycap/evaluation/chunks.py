"""The joined images of an evaluation, read chunk by chunk; and the tokens of their references.

Each pass reads them anew from the scratch database (see `matching`), so that memory does not grow
with their number. Tokens, which take longest to find, are kept there after the first pass.
"""

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.metrics.ngrams import Sentences

PLACE = "place"
"""Number of an image among the references."""
IS_SCORED = "is_scored"
TOKENS = "tokens"
"""Of each reference, joined by a space, which no token holds; null until `keep_tokens`."""

SYSTEM_COLUMNS = (
    schema.URI,
    schema.STATUS,
    schema.ERROR_CODE,
    schema.CAPTION,
    schema.LOGPROB,
)


def column(name: str, system: int) -> str:
    """Name a system's column of a chunk."""
    return f"{name}_{system}"


def read_chunks(
    database: duckdb.DuckDBPyConnection, num_systems: int, num_rows: int
) -> Iterator[pa.Table]:
    """Read the joined rows in the references' order, so many at a time.

    The database may be written to meanwhile; that is not seen.

    Yields:
        Tables of `place`, `image_id`, `references`, `tokens`, `is_scored` and, of each system,
        `column(name, system)` for `uri`, `status`, `error_code`, `caption` and `logprob`.
    """
    columns = ["r.place", "r.image_id", f"r.captions AS {schema.REFERENCE_CAPTIONS}", "t.tokens"]
    columns.append(f"s.place IS NOT NULL AS {IS_SCORED}")
    joins = ["refs r LEFT JOIN scored s USING (place) LEFT JOIN reference_tokens t USING (place)"]
    for system in range(num_systems):
        joins.append(f"LEFT JOIN matched_{system} m{system} ON m{system}.place = r.place")
        columns += [f"{_value(name, system)} AS {column(name, system)}" for name in SYSTEM_COLUMNS]
    query = f"SELECT {', '.join(columns)} FROM {' '.join(joins)} ORDER BY r.place"
    with database.cursor() as reading:
        for batch in reading.sql(query).to_arrow_reader(num_rows):
            yield pa.Table.from_batches([batch])


def keep_tokens(database: duckdb.DuckDBPyConnection, chunk: pa.Table, tokens: pa.Array) -> None:
    """Keep what `join_tokens` gave of a chunk, for the passes that follow."""
    page = pa.table({PLACE: chunk[PLACE], TOKENS: tokens})
    database.register("page", page)
    database.execute("INSERT INTO reference_tokens SELECT * FROM page")
    database.unregister("page")


def join_tokens(references: Sequence[Sentences]) -> pa.Array:
    """Give the tokens of each image's references as TOKENS are kept."""
    joined = [[" ".join(tokens) for tokens in image] for image in references]
    return pa.array(joined, pa.list_(pa.string()))


def split_tokens(kept: pa.ChunkedArray) -> list[Sentences]:
    """Undo `join_tokens`."""
    return [[text.split(" ") if text else [] for text in image] for image in kept.to_pylist()]


def _value(name: str, system: int) -> str:
    if name == schema.STATUS:
        return f"coalesce(m{system}.status, '{schema.STATUS_MISSING}')"
    if name == schema.URI:
        return f"coalesce(r.uri, m{system}.uri)"
    return f"m{system}.{name}"
