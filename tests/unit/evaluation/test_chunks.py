"""Chunks of an evaluation: all of each image, in order; and the tokens of its references."""

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raycap import schema
from raycap.config import MissingPolicy
from raycap.evaluation.matching import (
    IS_SCORED,
    PLACE,
    TOKENS,
    Match,
    column,
    join_tokens,
    keep_tokens,
    read_chunks,
    settle,
    split_tokens,
)
from raycap.metrics.tokenizer import tokenize
from tests.support import matching_samples
from tests.support.matching_samples import load, match, named, system

Database = duckdb.DuckDBPyConnection

# Fixtures, which pytest looks for under their names.
database = matching_samples.database
two_systems = matching_samples.two_systems


def chunks(database: Database, num_systems: int, num_rows: int) -> list[pa.Table]:
    return list(read_chunks(database, num_systems, num_rows))


def test_chunks_have_all_columns_of_each_image_in_order(
    database: Database, two_systems: dict[str, Match]
) -> None:
    settle(database, two_systems, MissingPolicy.DROP)
    parts = chunks(database, 2, 2)
    assert [len(part) for part in parts] == [2, 2, 1]
    table = pa.concat_tables(parts)
    assert table[PLACE].to_pylist() == [0, 1, 2, 3, 4]
    assert table[schema.IMAGE_ID].to_pylist() == ["1", "2", "3", "4", "5"]
    assert table[schema.REFERENCE_CAPTIONS].to_pylist()[1] == ["a 2", "two"]
    assert table[IS_SCORED].to_pylist() == [False, False, True, True, False]
    assert table[column(schema.STATUS, 0)].to_pylist() == ["missing", "failed", "ok", "ok", "ok"]
    assert table[column(schema.STATUS, 1)].to_pylist() == ["ok", "ok", "ok", "ok", "missing"]
    assert table[column(schema.ERROR_CODE, 0)].to_pylist() == [None, "timeout", None, None, None]
    assert table[column(schema.CAPTION, 0)].to_pylist() == [None, None, "a cat", "a cat", "a cat"]


def test_an_images_address_is_the_references_or_else_the_systems(database: Database) -> None:
    load(database, "1", "2")
    database.execute("UPDATE refs SET uri = NULL WHERE image_id = '2'")
    rows = [{schema.IMAGE_ID: key, schema.URI: f"/pictures/{key}"} for key in ("1", "2")]
    found = {"blip": match(database, system(*rows))}
    settle(database, found, MissingPolicy.ERROR)
    (table,) = chunks(database, 1, 10)
    assert table[column(schema.URI, 0)].to_pylist() == ["s3://b/1", "/pictures/2"]


def test_tokens_are_kept_while_chunks_are_read_and_found_by_the_next_pass(
    database: Database,
) -> None:
    load(database, *(f"{number}" for number in range(9)))
    found = {"blip": match(database, named("3"))}
    settle(database, found, MissingPolicy.WORST)
    written = [[[f"a{place}", "b"], []] for place in range(9)]
    for part in read_chunks(database, 1, 2):
        assert part[TOKENS].null_count == len(part)
        keep_tokens(database, part, join_tokens([written[at] for at in part[PLACE].to_pylist()]))
    assert split_tokens(pa.concat_tables(chunks(database, 1, 4))[TOKENS]) == written


@given(st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=3), max_size=4))
def test_tokens_survive_being_kept(written: list[list[str]]) -> None:
    references = [[tokenize(text) for text in image] for image in written]
    assert split_tokens(pa.chunked_array([join_tokens(references)])) == references
