"""Systems and references of a few images, loaded into a scratch database and joined."""

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from raycap import schema
from raycap.evaluation.caption_file import FILE, FILE_NAMES, ROWS
from raycap.evaluation.captions import Captions, CaptionsFormat
from raycap.evaluation.matching import Match, load_references, match_system
from raycap.scratch import scratch_database

Database = duckdb.DuckDBPyConnection


@pytest.fixture
def database() -> Iterator[Database]:
    with scratch_database(100_000_000) as opened:
        yield opened


def system(
    *rows: dict[str, Any], name: str = "blip", file_names: dict[str, str] | None = None
) -> Captions:
    """Give a system with those rows, in two pages."""
    empty = dict.fromkeys(ROWS.names) | {schema.STATUS: schema.STATUS_OK, schema.CAPTION: "a cat"}
    whole = [empty | {FILE: row[schema.IMAGE_ID]} | row for row in rows]
    table = pa.Table.from_pylist(whole, schema=ROWS)
    names: list[Any] = list(zip(*(file_names or {}).items(), strict=True)) or [[], []]
    return Captions(
        name=name,
        source=f"{name}.json",
        format=CaptionsFormat.COCO,
        pages=lambda: iter([table[:1], table[1:]]),
        file_names=lambda: iter([pa.table(names, schema=FILE_NAMES)]) if file_names else iter([]),
    )


def named(*ids: str, **more: Any) -> Captions:
    return system(*({schema.IMAGE_ID: image_id} for image_id in ids), **more)


def load(database: Database, *ids: str, sources: dict[str, str] | None = None) -> int:
    """Load references of those ids, in two tables."""
    rows = [
        {
            schema.IMAGE_ID: image_id,
            schema.SOURCE_ID: (sources or {}).get(image_id),
            schema.URI: f"s3://b/{image_id}",
            schema.SPLIT: None,
            schema.CAPTIONS_LIST: [f"a {image_id}", "two"],
        }
        for image_id in ids
    ]
    table = pa.Table.from_pylist(rows, schema=schema.REFERENCES)
    return load_references(database, [table[:1], table[1:]])


def matched(database: Database, number: int = 0) -> list[tuple[str, str]]:
    """Give which caption's row each reference has got."""
    rows = database.execute(
        f"SELECT r.image_id, c.image_id FROM matched_{number} m JOIN refs r USING (place) "
        f"JOIN captions_{number} c ON c.rowid = m.row ORDER BY ALL"
    )
    return rows.fetchall()


def match(database: Database, captions: Captions, number: int = 0) -> Match:
    return match_system(database, number, captions, "/data/refs")


FAILED = {schema.STATUS: "failed", schema.ERROR_CODE: "timeout", schema.CAPTION: None}


@pytest.fixture
def two_systems(database: Database) -> dict[str, Match]:
    """Of images 1 to 5, the first system lacks 1 and failed on 2; the second lacks 5."""
    load(database, "1", "2", "3", "4", "5")
    first = system(
        {schema.IMAGE_ID: "2", **FAILED}, *({schema.IMAGE_ID: key} for key in ("3", "4", "5"))
    )
    second = named("1", "2", "3", "4", name="tuned")
    return {"blip": match(database, first), "tuned": match(database, second, 1)}
