"""Matching the captions of systems with references, in a scratch database read chunk by chunk.

The tables of DuckDB use the disk beyond its memory limit: `refs` has the references in order,
`captions_N` the rows of system N, `matched_N` its rows that have references, `scored` the places of
the compared images, `reference_tokens` the tokens kept after the first pass, which take longest to
compute. Each pass reads the joined rows again, so that memory does not grow with their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.config import MissingPolicy
from raycap.errors import DatasetError, ErrorCode
from raycap.evaluation.caption_file import FILE_NAMES, ROWS
from raycap.evaluation.captions import Captions
from raycap.metrics.ngrams import Sentences

NUM_NAMED = 5
"""Most ids listed in a message or record; the others are only counted."""

UNKNOWN = "unknown"
"""Error code of a failed row without one."""

PLACE = "place"
"""Position of an image among the references."""
IS_SCORED = "is_scored"
TOKENS = "tokens"
"""Of each reference, joined by spaces, which no token contains; null until `keep_tokens`."""

SYSTEM_COLUMNS = (
    schema.URI,
    schema.ETAG,
    schema.STATUS,
    schema.ERROR_CODE,
    schema.CAPTION,
    schema.LOGPROB,
)

# The last part of a path, and that without its suffix, as posixpath has them.
_NAME = "regexp_extract({}, '[^/]*$')"
_STEM = f"regexp_replace({_NAME}, '(?s)^(.*[^.].*)\\.[^.]*$', '\\1')"

_PASSING = frozenset(str(code) for code in ErrorCode if code.is_transient)

_RULES = {
    "image_id": ("image_id", "image_id"),
    "source_id": ("image_id", "source_id"),
    "file name": (_NAME.format("file"), _NAME.format("image_id")),
    "stem": (_STEM.format("file"), _STEM.format("image_id")),
}
"""Names of an image in a row, and in the references, that are compared; the first that match any
image are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The match of one system's rows with the references."""

    matched_by: str
    num_missing: int
    missing: list[str] = field(default_factory=list)
    num_extra: int
    extra: list[str] = field(default_factory=list)
    num_failed: int
    failed: dict[str, int] = field(default_factory=dict)


def load_references(database: duckdb.DuckDBPyConnection, tables: Iterable[pa.Table]) -> int:
    """Load REFERENCES, sorted by image id, into the scratch database; return the number of rows."""
    database.execute(
        "CREATE TABLE refs "
        "(place BIGINT, image_id VARCHAR, source_id VARCHAR, uri VARCHAR, captions VARCHAR[])"
    )
    database.execute("CREATE TABLE reference_tokens (place BIGINT, tokens VARCHAR[])")
    num_rows = 0
    for table in tables:
        places = pa.array(range(num_rows, num_rows + len(table)), pa.int64())
        _insert(database, "refs", table.drop_columns([schema.SPLIT]).add_column(0, PLACE, places))
        num_rows += len(table)
    return num_rows


def match_system(
    database: duckdb.DuckDBPyConnection, system: int, captions: Captions, references: str
) -> Match:
    """Load a system's rows, and join them with the references by the first rule that matches any.

    Args:
        database: contains the references.
        system: number of the system.
        captions: its rows.
        references: address of the references, for messages.

    Raises:
        DatasetError: it has an image twice, or none of the images of the references.
    """
    _load_captions(database, system, captions)
    _refuse_duplicates(database, system, captions.source)
    for rule, (ours, theirs) in _RULES.items():
        if _join(database, system, ours, theirs):
            return _describe(database, system, rule)
    raise _nothing_fits(database, system, captions.source, references)


def settle(
    database: duckdb.DuckDBPyConnection, matches: dict[str, Match], policy: MissingPolicy
) -> int:
    """Decide which images are scored; return their number.

    Args:
        database: contains the references and all matched systems.
        matches: by the systems' names, in their order.
        policy: treatment of images without a caption.

    Raises:
        DatasetError: images have no caption and the policy is to stop, or no image remains.
    """
    lacking = {name: match for name, match in matches.items() if _is_lacking(match)}
    if policy == MissingPolicy.ERROR and lacking:
        lacks = "; ".join(_describe_lack(name, match) for name, match in lacking.items())
        raise DatasetError(
            f"{lacks}; caption these images too, or choose --missing worst (score them 0) or "
            "--missing drop (exclude them, for all systems)",
            setting="missing",
        )
    captioned = [
        f"SELECT place FROM matched_{system} WHERE status = '{schema.STATUS_OK}'"
        for system in range(len(matches))
    ]
    for query, (name, match) in zip(captioned, matches.items(), strict=True):
        if not _number(database, f"SELECT count(*) FROM ({query})"):
            raise DatasetError(f"no caption at all: {_describe_lack(name, match)}")
    wanted = ["SELECT place FROM refs", *(captioned if policy == MissingPolicy.DROP else ())]
    database.execute(f"CREATE TABLE scored AS {' INTERSECT '.join(wanted)}")
    num_scored = _number(database, "SELECT count(*) FROM scored")
    if not num_scored:
        raise DatasetError(
            f"no image has a caption of {' and of '.join(matches)}; nothing remains to compare"
        )
    return num_scored


def _insert(database: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    database.register("page", table)
    database.execute(f"INSERT INTO {name} SELECT * FROM page")
    database.unregister("page")


def _load_captions(database: duckdb.DuckDBPyConnection, system: int, captions: Captions) -> None:
    name = f"captions_{system}"
    _load(database, name, ROWS, captions.pages())
    if captions.file_names is None:
        return
    _load(database, "file_names", FILE_NAMES, captions.file_names())
    # The image numbers of a file with file names have no meaning outside it.
    database.execute(
        f"UPDATE {name} SET image_id = n.file_name, file = n.file_name "
        f"FROM file_names n WHERE n.image_id = {name}.image_id"
    )
    database.execute("DROP TABLE file_names")


def _load(
    database: duckdb.DuckDBPyConnection, name: str, columns: pa.Schema, tables: Iterable[pa.Table]
) -> None:
    database.register("page", columns.empty_table())
    database.execute(f"CREATE TABLE {name} AS SELECT * FROM page")
    database.unregister("page")
    for table in tables:
        _insert(database, name, table)


def _refuse_duplicates(database: duckdb.DuckDBPyConnection, system: int, source: str) -> None:
    twice = _names(
        database, f"SELECT image_id FROM captions_{system} GROUP BY image_id HAVING count(*) > 1"
    )
    if twice:
        raise DatasetError(
            f"{source}: more than one caption of {_named(*twice)}; keep one each", uri=source
        )


def _join(database: duckdb.DuckDBPyConnection, system: int, ours: str, theirs: str) -> int:
    """Join rows and references with equal names that are unique on either side."""
    columns = ", ".join(f"c.{name}" for name in SYSTEM_COLUMNS)
    database.execute(
        f"""
        CREATE OR REPLACE TABLE matched_{system} AS
        WITH ours AS (
            SELECT {ours} AS name, any_value(rowid) AS row FROM captions_{system}
            GROUP BY name HAVING count(*) = 1 AND name <> ''
        ), theirs AS (
            SELECT {theirs} AS name, any_value(place) AS place FROM refs
            GROUP BY name HAVING count(*) = 1 AND name <> ''
        )
        SELECT theirs.place, c.rowid AS row, {columns}
        FROM ours JOIN theirs USING (name) JOIN captions_{system} c ON c.rowid = ours.row
        """
    )
    return _number(database, f"SELECT count(*) FROM matched_{system}")


def _describe(database: duckdb.DuckDBPyConnection, system: int, rule: str) -> Match:
    matched = f"matched_{system}"
    num_missing, missing = _names(
        database, f"SELECT image_id FROM refs ANTI JOIN {matched} USING (place)"
    ) or (0, [])
    num_extra, extra = _names(
        database,
        f"SELECT c.image_id FROM captions_{system} c ANTI JOIN {matched} m ON m.row = c.rowid",
    ) or (0, [])
    codes = database.execute(
        f"SELECT coalesce(error_code, '{UNKNOWN}') AS code, count(*) FROM {matched} "
        f"WHERE status = '{schema.STATUS_FAILED}' GROUP BY code ORDER BY code"
    ).fetchall()
    return Match(
        matched_by=rule,
        num_missing=num_missing,
        missing=missing,
        num_extra=num_extra,
        extra=extra,
        num_failed=sum(count for _, count in codes),
        failed=dict(codes),
    )


def _names(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, list[str]] | None:
    """Return the number of ids in a query and the first few; None if there are none."""
    count = _number(database, f"SELECT count(*) FROM ({query})")
    first = f"SELECT image_id FROM ({query}) ORDER BY image_id LIMIT {NUM_NAMED}"
    return (count, [name for (name,) in database.execute(first).fetchall()]) if count else None


def _number(database: duckdb.DuckDBPyConnection, query: str) -> int:
    ((count,),) = database.execute(query).fetchall()
    return int(count)


def _named(count: int, names: list[str]) -> str:
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return f"{', '.join(names)}{more}"


def _is_lacking(match: Match) -> bool:
    return bool(match.num_missing or match.num_failed)


def _describe_lack(name: str, match: Match) -> str:
    lacks = []
    if match.num_missing:
        named = _named(match.num_missing, match.missing)
        lacks.append(f"{match.num_missing:,} without a row ({named})")
    if match.num_failed:
        codes = ", ".join(f"{count:,} {code}" for code, count in match.failed.items())
        lacks.append(f"{match.num_failed:,} failed ({codes})")
        if _PASSING & match.failed.keys():
            lacks.append("of which `raycap caption --retry-failed` may fix some")
    return f"{name} lacks captions of images: {', '.join(lacks)}"


def _nothing_fits(
    database: duckdb.DuckDBPyConnection, system: int, source: str, references: str
) -> DatasetError:
    count, ours = _names(database, f"SELECT image_id FROM captions_{system}") or (0, [])
    if not count:
        return DatasetError(f"{source}: contains no captions", uri=source)
    _, theirs = _names(database, "SELECT image_id FROM refs") or (0, ["none"])
    return DatasetError(
        f"{source}: none of its {count:,} images is in {references}, by {', '.join(_RULES)}; for "
        f"example, its first is {ours[0]}, and that of the references {theirs[0]}",
        uri=source,
    )


def column(name: str, system: int) -> str:
    """Return the name of a system's column in a chunk."""
    return f"{name}_{system}"


def read_chunks(
    database: duckdb.DuckDBPyConnection, num_systems: int, num_rows: int
) -> Iterator[pa.Table]:
    """Read the joined rows in the order of the references, in chunks of `num_rows`.

    Writes to the database during the iteration are not seen.

    Yields:
        tables of `place`, `image_id`, `references`, `tokens`, `is_scored` and, for each system,
        `column(name, system)` of `uri`, `etag`, `status`, `error_code`, `caption` and
        `logprob`. The ETag is null where the references have another address of the image.
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
    """Store the result of `join_tokens` for a chunk, for later passes."""
    page = pa.table({PLACE: chunk[PLACE], TOKENS: tokens})
    database.register("page", page)
    database.execute("INSERT INTO reference_tokens SELECT * FROM page")
    database.unregister("page")


def join_tokens(references: Sequence[Sentences]) -> pa.Array:
    """Return the tokens of each image's references in the form of TOKENS."""
    joined = [[" ".join(tokens) for tokens in image] for image in references]
    return pa.array(joined, pa.list_(pa.string()))


def split_tokens(kept: pa.ChunkedArray) -> list[Sentences]:
    """Return the tokens from the form of TOKENS."""
    return [[text.split(" ") if text else [] for text in image] for image in kept.to_pylist()]


def _value(name: str, system: int) -> str:
    if name == schema.STATUS:
        return f"coalesce(m{system}.status, '{schema.STATUS_MISSING}')"
    if name == schema.URI:
        return f"coalesce(r.uri, m{system}.uri)"
    if name == schema.ETAG:
        return f"CASE WHEN coalesce(r.uri, m{system}.uri) = m{system}.uri THEN m{system}.etag END"
    return f"m{system}.{name}"
