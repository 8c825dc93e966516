"""Rows of captions as reviewers left them."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap import schema
from raycap.config import EditsMode
from raycap.edits.overlay import Overlay
from raycap.edits.records import EditState, Review
from raycap.schema import EDITED, REVIEW, STALE
from tests.support.outputs import failed, row

DIGEST = {schema.DIGEST: "d1"}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.CAPTIONS)


def state(image_id: str, **fields: Any) -> EditState:
    return EditState(**{"image_id": image_id, "digest": "d1", "last": "1", **fields})


EDITS = Overlay.of(
    [
        state("b.jpg", text="two words", review=Review.EDITED),
        state("c.jpg", text="of another image", review=Review.EDITED, digest="d0"),
        state("d.jpg", review=Review.APPROVED, seen="a cat on a mat"),
        state("e.jpg", review=Review.REJECTED, seen="a cat on a mat"),
        state("f.jpg", text="was unreadable", review=Review.APPROVED, digest=None),
        state("g.jpg", review=Review.APPROVED, seen="another caption"),
    ]
)
ROWS = table(
    *(row(f"{name}.jpg", **DIGEST) for name in "abcde"), failed("f.jpg"), row("g.jpg", **DIGEST)
)


def test_texts_replace_captions_and_what_was_said_of_them() -> None:
    found = EDITS.apply(ROWS, None, EditsMode.APPLY)
    assert found.schema == ROWS.schema
    rows = {one["image_id"]: one for one in found.to_pylist()}
    assert (rows["b.jpg"]["caption"], rows["b.jpg"]["num_words"]) == ("two words", 2)
    assert rows["b.jpg"]["logprob"] is None
    assert rows["b.jpg"]["attempts"] == 1
    given = (rows["f.jpg"][name] for name in ("caption", "status", "error_code", "error_message"))
    assert tuple(given) == ("was unreadable", "ok", None, None)
    for name in "acdeg":
        assert rows[f"{name}.jpg"] == {
            **dict.fromkeys(("model", "finish", "num_tokens", "num_prompt_tokens", "flag")),
            **row(f"{name}.jpg", **DIGEST),
            "logprob": pytest.approx(-0.3),
        }


def test_marks_say_what_reviewers_made_of_each_row() -> None:
    found = EDITS.apply(ROWS, None, EditsMode.APPLY, marks=True)
    assert found.select([EDITED, REVIEW, STALE]).schema == schema.EDIT_MARKS
    marks = [tuple(one.values()) for one in found.select([EDITED, REVIEW, STALE]).to_pylist()]
    assert marks == [
        (False, None, False),
        (True, "edited", False),
        (False, None, True),
        (False, "approved", False),
        (False, "rejected", False),
        (True, "approved", False),
        (False, None, True),
    ]


def test_only_keeps_what_a_reviewer_has_written_or_approved() -> None:
    found = EDITS.apply(ROWS, None, EditsMode.ONLY)
    assert found[schema.IMAGE_ID].to_pylist() == ["b.jpg", "d.jpg", "f.jpg"]


def test_ignoring_changes_nothing() -> None:
    assert EDITS.apply(ROWS, None, EditsMode.IGNORE) is ROWS
    found = EDITS.apply(ROWS, None, EditsMode.IGNORE, marks=True)
    assert found.select(ROWS.column_names).equals(ROWS)
    assert found[REVIEW].null_count == len(ROWS)


def test_edits_of_another_prompt_and_empty_parts_are_no_matter() -> None:
    assert EDITS.apply(ROWS, "short", EditsMode.APPLY).equals(ROWS)
    assert len(EDITS.apply(ROWS.slice(0, 0), None, EditsMode.APPLY, marks=True)) == 0
    assert len(EDITS.apply(ROWS, "short", EditsMode.ONLY)) == 0


def test_answers_to_other_prompts_are_edited_in_their_columns() -> None:
    kind = schema.answer_type(pa.struct([("n", pa.int64())]))
    answer = {"caption": '{"n": 1}', "num_words": 2, "alternatives": [], "value": {"n": 1}}
    answers = pa.array([answer, None, answer], kind)
    rows = table(*(row(f"{name}.jpg", **DIGEST) for name in "abc")).append_column("count", answers)
    overlay = Overlay.of(
        [
            state("a.jpg", prompt="count", text='{"n": 7}', review=Review.EDITED),
            state("b.jpg", prompt="count", text="seven", review=Review.EDITED),
        ]
    )
    found = overlay.apply_to_answers(rows, "count")
    assert found.schema == rows.schema
    first, second, third = found["count"].to_pylist()
    assert (first["caption"], first["value"]) == ('{"n": 7}', {"n": 7})
    assert (second["caption"], second["num_words"], second["value"]) == ("seven", 1, None)
    assert third == rows["count"].to_pylist()[2]


VERSIONS = st.sampled_from([None, "x", "y"])
CAPTIONS = st.sampled_from([None, "a cat", "a dog"])


@given(
    st.lists(st.tuples(st.integers(0, 9), VERSIONS, VERSIONS, CAPTIONS), unique_by=lambda r: r[0]),
    st.lists(
        st.tuples(
            st.integers(0, 9), VERSIONS, VERSIONS, CAPTIONS, CAPTIONS, st.sampled_from(Review)
        ),
        unique_by=lambda r: r[0],
    ),
)
def test_columns_say_the_same_as_states_one_by_one(
    images: list[tuple[Any, ...]], edited: list[tuple[Any, ...]]
) -> None:
    states = {
        number: state(str(number), digest=digest, etag=etag, text=text, seen=seen, review=review)
        for number, digest, etag, text, seen, review in edited
    }
    rows = [
        row(str(number), digest=digest, etag=etag) | {"caption": caption}
        for number, digest, etag, caption in images
    ]
    found = Overlay.of(states.values()).apply(table(*rows), None, EditsMode.APPLY, marks=True)
    for (number, digest, etag, caption), one in zip(images, found.to_pylist(), strict=True):
        about = states.get(number, EditState(image_id=str(number)))
        stale = about.is_stale(digest=digest, etag=etag, caption=caption)
        assert one[STALE] == stale
        text = None if stale else about.text
        assert one["caption"] == (caption if text is None else text)
        assert one[REVIEW] == (None if stale else about.review)
