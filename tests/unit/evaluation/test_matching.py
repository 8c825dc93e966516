"""Which caption belongs to which image: names, doubles, what is left over; and reading chunks."""

import posixpath
import re

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.config import MissingPolicy
from raycap.errors import DatasetError
from raycap.evaluation import matching
from raycap.evaluation.caption_file import FILE
from raycap.evaluation.matching import Match, column, settle
from tests.support import matching_samples
from tests.support.matching_samples import FAILED, load, match, matched, named, system

Database = duckdb.DuckDBPyConnection

# Fixtures, which pytest looks for under their names.
database = matching_samples.database
two_systems = matching_samples.two_systems


# Names


def test_equal_ids_match_in_any_order(database: Database) -> None:
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
    with pytest.raises(DatasetError, match=r"\b1, 2;") as caught:
        match(database, named("1", "2", "3", "2", "1"))
    assert caught.value.uri == "blip.json"
    many = [str(number) for number in range(10, 20)]
    with pytest.raises(DatasetError, match="10, 11, 12, 13, 14 and 5 more"):
        match(database, named(*many, *many), 1)


def test_two_names_of_one_file_are_two_captions_of_an_image(database: Database) -> None:
    load(database, "a.jpg")
    captions = named("1", "2", file_names={"1": "a.jpg", "2": "a.jpg"})
    with pytest.raises(DatasetError, match=r"a\.jpg;"):
        match(database, captions)


def test_captions_of_other_images_are_refused_with_a_name_of_each(database: Database) -> None:
    load(database, "a/1.jpg", "a/2.jpg")
    with pytest.raises(DatasetError) as told:
        match(database, named("x", "y"))
    message = str(told.value)
    assert told.value.uri == "blip.json"
    assert {"x", "a/1.jpg", "/data/refs", "2"} <= set(re.split("[, ;]+", message))


def test_no_captions_are_refused(database: Database) -> None:
    load(database, "1")
    with pytest.raises(DatasetError) as caught:
        match(database, system())
    assert caught.value.uri == "blip.json"


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


def scored(database: Database) -> list[str]:
    rows = database.execute("SELECT image_id FROM refs JOIN scored USING (place) ORDER BY 1")
    return [image_id for (image_id,) in rows.fetchall()]


def test_missing_captions_stop_an_evaluation_and_are_named(
    database: Database, two_systems: dict[str, Match]
) -> None:
    with pytest.raises(DatasetError) as told:
        settle(database, two_systems, MissingPolicy.ERROR)
    blip, tuned, *advice = str(told.value).split("; ")
    assert told.value.setting == "missing"
    assert re.match(r"blip .* 1 .*\(1\), 1 .*--retry-failed", blip)
    assert re.match(r"tuned .* 1 .*\(5\)$", tuned)
    assert "--missing worst" in advice[0]
    assert "--missing drop" in advice[0]


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


def test_complete_systems_pass_with_any_policy(database: Database) -> None:
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
    with pytest.raises(DatasetError, match=r"none .* 1 ") as caught:
        settle(database, found, policy)
    assert caught.value.setting is None, "another policy does not help"


def test_systems_with_no_image_in_common_are_refused(database: Database) -> None:
    load(database, "1", "2")
    found = {
        "a": match(database, named("1", name="a")),
        "b": match(database, named("2", name="b"), 1),
    }
    with pytest.raises(DatasetError, match=r"\ba .*\bb\b"):
        settle(database, found, MissingPolicy.DROP)


def test_a_version_counts_only_at_the_address_that_was_captioned(database: Database) -> None:
    load(database, "1.jpg", "2.jpg")
    rows = [
        {schema.IMAGE_ID: "1.jpg", schema.URI: "s3://b/1.jpg", schema.ETAG: "x"},
        {schema.IMAGE_ID: "2.jpg", schema.URI: "s3://other/2.jpg", schema.ETAG: "y"},
    ]
    settle(database, {"blip": match(database, system(*rows))}, MissingPolicy.ERROR)
    (chunk,) = matching.read_chunks(database, 1, 10)
    assert chunk[column(schema.ETAG, 0)].to_pylist() == ["x", None]
    assert chunk[column(schema.URI, 0)].to_pylist() == ["s3://b/1.jpg", "s3://b/2.jpg"]
