"""Which caption belongs to which image: names, doubles, what is left over; and reading chunks."""

import posixpath
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.errors import DatasetError
from raycap.evaluation import matching
from raycap.evaluation.captionfile import FILE, FILE_NAMES, ROWS
from raycap.evaluation.captions import Captions, CaptionsFormat
from raycap.evaluation.chunks import (
    IS_SCORED,
    PLACE,
    TOKENS,
    column,
    join_tokens,
    keep_tokens,
    read_chunks,
    split_tokens,
)
from raycap.evaluation.matching import (
    Match,
    MissingPolicy,
    load_references,
    match_system,
    settle,
)
from raycap.metrics.tokenizer import tokenize
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


# Names


def test_ids_match_as_they_are_whatever_their_order(database: Database) -> None:
    assert load(database, "a/1.jpg", "a/2.jpg", "b/1.jpg") == 3
    found = match(database, named("b/1.jpg", "a/1.jpg", "a/2.jpg"))
    assert found == Match(matched_by="image_id", num_missing=0, num_extra=0, num_failed=0)
    assert matched(database) == [(i, i) for i in ("a/1.jpg", "a/2.jpg", "b/1.jpg")]


@pytest.mark.parametrize(
    ("ours", "rule"),
    [
        (("x/1.jpg", "2.jpg", "/abs/y/3.png"), "file name"),
        (("1", "x/2.webp", "3.json"), "stem"),
        (("42", "7", "100"), "source_id"),
    ],
)
def test_names_match_by_the_best_rule_that_fits(
    database: Database, ours: tuple[str, ...], rule: str
) -> None:
    theirs = ("p/1.jpg", "p/2.jpg", "q/3.png")
    load(database, *theirs, sources=dict(zip(theirs, ("42", "7", "100"), strict=True)))
    found = match(database, named(*ours))
    assert (found.matched_by, found.num_missing, found.num_extra) == (rule, 0, 0)
    assert matched(database) == sorted(zip(theirs, ours, strict=True))


def test_a_rule_that_fits_some_images_is_kept_and_tells_what_it_leaves(database: Database) -> None:
    load(database, "train/1.jpg", "train/2.jpg")
    found = match(database, named("train/1.jpg", "val/2.jpg"))
    assert found.matched_by == "image_id"  # by file name, 2.jpg of another folder would be taken
    assert (found.missing, found.extra) == (["train/2.jpg"], ["val/2.jpg"])


def test_rows_are_known_by_their_files_where_ids_say_nothing(database: Database) -> None:
    load(database, "p/1.jpg", "p/2.jpg")
    rows = [{schema.IMAGE_ID: key, FILE: f"elsewhere/{key}.jpg"} for key in ("1", "2")]
    assert match(database, system(*rows)).matched_by == "file name"


def test_coco_numbers_are_read_as_their_own_file_says(database: Database) -> None:
    load(database, "a.jpg", "b.jpg", sources={"a.jpg": "2", "b.jpg": "1"})
    found = match(database, named("1", "2", "3", file_names={"1": "x/a.jpg", "2": "x/b.jpg"}))
    assert found.matched_by == "file name"
    assert matched(database) == [("a.jpg", "x/a.jpg"), ("b.jpg", "x/b.jpg")]
    assert found.extra == ["3"]


def test_names_that_two_images_share_belong_to_neither(database: Database) -> None:
    load(database, "a/1.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg")
    found = match(database, named("1.jpg", "x/2.jpg", "x/3.jpg", "y/3.jpg"))
    assert matched(database) == [("b/2.jpg", "x/2.jpg")]
    assert found.missing == ["a/1.jpg", "b/1.jpg", "c/3.jpg"]
    assert found.extra == ["1.jpg", "x/3.jpg", "y/3.jpg"]


_paths = st.lists(st.sampled_from([".", "/", "a", "b", "\n", "ü"]), max_size=8).map("".join)


@settings(deadline=None, max_examples=30)
@given(st.lists(_paths, min_size=20, max_size=60))
def test_stems_are_those_of_pythons_own_paths(paths: list[str]) -> None:
    values = ", ".join("(?)" for _ in paths)
    query = f"SELECT {matching._NAME.format('p')}, {matching._STEM.format('p')} FROM "
    found = duckdb.execute(f"{query} (VALUES {values}) t(p)", paths).fetchall()
    names = [posixpath.basename(path) for path in paths]
    assert found == [(name, posixpath.splitext(name)[0]) for name in names]


# What does not fit


def test_an_image_with_two_captions_is_refused_by_name(database: Database) -> None:
    load(database, "1", "2")
    with pytest.raises(DatasetError, match=r"blip\.json: more than one caption of 1, 2; keep one"):
        match(database, named("1", "2", "3", "2", "1"))
    many = [str(number) for number in range(10, 20)]
    with pytest.raises(DatasetError, match="caption of 10, 11, 12, 13, 14 and 5 more;"):
        match(database, named(*many, *many), 1)


def test_two_names_of_one_file_are_two_captions_of_an_image(database: Database) -> None:
    load(database, "a.jpg")
    captions = named("1", "2", file_names={"1": "a.jpg", "2": "a.jpg"})
    with pytest.raises(DatasetError, match=r"more than one caption of a\.jpg"):
        match(database, captions)


def test_captions_of_other_images_are_refused_with_a_name_of_each(database: Database) -> None:
    load(database, "a/1.jpg", "a/2.jpg")
    with pytest.raises(DatasetError) as told:
        match(database, named("x", "y"))
    assert str(told.value) == (
        "blip.json: none of its 2 images is in /data/refs, by image_id, source_id, file name, "
        "stem; it names them x, and the references a/1.jpg"
    )


def test_no_captions_are_refused(database: Database) -> None:
    load(database, "1")
    with pytest.raises(DatasetError, match=r"blip\.json: holds no captions"):
        match(database, system())


def test_what_is_left_over_is_counted_and_the_first_few_named(database: Database) -> None:
    ids = [f"{number:02d}" for number in range(20)]
    load(database, *ids)
    failures = [
        {schema.IMAGE_ID: "00", schema.STATUS: "failed", schema.ERROR_CODE: code, "caption": None}
        | {schema.IMAGE_ID: image_id}
        for image_id, code in (("08", "too_large"), ("09", None), ("10", "too_large"))
    ]
    rest = [{schema.IMAGE_ID: image_id} for image_id in ids[11:]]
    more = [{schema.IMAGE_ID: f"x{number}"} for number in (2, 1)]
    assert match(database, system(*failures, *more, *rest)) == Match(
        matched_by="image_id",
        num_missing=8,
        missing=["00", "01", "02", "03", "04"],
        num_extra=2,
        extra=["x1", "x2"],
        num_failed=3,
        failed={"too_large": 2, "unknown": 1},
    )


# Missing captions


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


def scored(database: Database) -> list[str]:
    rows = database.execute("SELECT image_id FROM refs JOIN scored USING (place) ORDER BY 1")
    return [image_id for (image_id,) in rows.fetchall()]


def test_missing_captions_stop_an_evaluation_and_are_named(
    database: Database, two_systems: dict[str, Match]
) -> None:
    with pytest.raises(DatasetError) as told:
        settle(database, two_systems, MissingPolicy.ERROR)
    assert str(told.value) == (
        "blip lacks captions of images: 1 without a row (1), 1 failed (1 timeout), of which "
        "`raycap caption --retry-failed` may mend some; tuned lacks captions of images: 1 without "
        "a row (5); caption these images too, or choose --missing worst (they score 0) or "
        "--missing drop (they are left out, for every system)"
    )


def test_missing_captions_may_count_as_the_worst(
    database: Database, two_systems: dict[str, Match]
) -> None:
    assert settle(database, two_systems, MissingPolicy.WORST) == 5
    assert scored(database) == ["1", "2", "3", "4", "5"]


def test_missing_captions_may_be_left_out_for_every_system(
    database: Database, two_systems: dict[str, Match]
) -> None:
    assert settle(database, two_systems, MissingPolicy.DROP) == 2
    assert scored(database) == ["3", "4"]


def test_whole_systems_pass_whatever_is_to_be_done(database: Database) -> None:
    load(database, "1", "2")
    found = {"blip": match(database, named("1", "2", "3"))}
    assert settle(database, found, MissingPolicy.ERROR) == 2


@pytest.mark.parametrize("policy", [MissingPolicy.WORST, MissingPolicy.DROP])
def test_a_system_without_any_caption_is_refused(database: Database, policy: MissingPolicy) -> None:
    load(database, "1", "2")
    found = {
        "blip": match(database, named("1", "2")),
        "none": match(database, system({schema.IMAGE_ID: "1", **FAILED}), 1),
    }
    with pytest.raises(
        DatasetError, match=r"^no caption at all: none lacks captions of .*: 1 without"
    ):
        settle(database, found, policy)


def test_systems_with_no_image_in_common_are_refused(database: Database) -> None:
    load(database, "1", "2")
    found = {
        "a": match(database, named("1", name="a")),
        "b": match(database, named("2", name="b"), 1),
    }
    with pytest.raises(DatasetError, match="no image has a caption of a and of b; nothing is left"):
        settle(database, found, MissingPolicy.DROP)


# Chunks


def chunks(database: Database, num_systems: int, num_rows: int) -> list[pa.Table]:
    return list(read_chunks(database, num_systems, num_rows))


def test_chunks_hold_all_of_each_image_in_order(
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
