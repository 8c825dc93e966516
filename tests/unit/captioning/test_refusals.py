"""A source that refuses everything stops the run; one that refuses something does not."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.refusals import Refusals
from raycap.errors import ErrorCode, StorageError

BAD, LOST, FINE = str(ErrorCode.FORBIDDEN), str(ErrorCode.NOT_FOUND), None


def rows(codes: Sequence[str | None], num_prompts: int = 1) -> pa.Table:
    names = [schema.ERROR_CODE, schema.ERROR_MESSAGE, schema.IS_FIRST]
    each = [code for code in codes for _ in range(num_prompts)]
    first = [prompt == 0 for _ in codes for prompt in range(num_prompts)]
    messages = pa.array([f"x: {code}" for code in each], pa.string())
    return pa.table([pa.array(each, pa.string()), messages, pa.array(first, pa.bool_())], names)


def passed(
    tables: Sequence[Sequence[str | None]], max_refused: int = 10, *, has_captions: bool = False
) -> int:
    refusals = Refusals(max_refused, has_captions=has_captions)
    found = [out for codes in tables for out in refusals.passed(rows(codes))]
    return sum(map(len, [*found, *refusals.rest()]))


@pytest.mark.parametrize(
    "tables",
    [
        [],
        [[]],
        [[BAD, FINE, BAD]],
        [[BAD] * 9, [BAD, "decode_failed"]],
        [[BAD, BAD], [BAD], [FINE], [BAD] * 9, [LOST, *[BAD] * 9]],
        [[LOST] * 50],
        [[LOST, LOST, BAD]],
        [[BAD, LOST]],
        [["timeout"] * 50],
    ],
)
def test_all_rows_pass_if_one_image_can_be_read_or_access_is_not_the_reason(
    tables: list[list[str | None]],
) -> None:
    assert passed(tables) == sum(map(len, tables))


@pytest.mark.parametrize(
    "tables",
    [
        [[BAD]],
        [[], [BAD]],
        [[BAD] * 4, [BAD] * 4],
        [[BAD, BAD, LOST]],
        [[FINE], [FINE, BAD, BAD], [BAD] * 4, [BAD] * 4],
    ],
)
def test_a_run_in_which_no_image_can_be_read_stops_with_the_reason(
    tables: list[list[str | None]],
) -> None:
    with pytest.raises(StorageError, match="x: forbidden"):
        passed(tables)


def test_it_stops_before_all_were_tried() -> None:
    refusals = Refusals(10, has_captions=True)
    assert not list(refusals.passed(rows([BAD] * 9)))
    with pytest.raises(StorageError, match=r"\b11 images") as caught:
        list(refusals.passed(rows([BAD] * 2)))
    assert caught.value.setting == "engine.max_refused"


def test_after_earlier_captions_a_few_refused_images_are_rows() -> None:
    assert passed([[BAD]], has_captions=True) == 1


def test_nothing_is_committed_of_a_run_that_stops() -> None:
    refusals = Refusals(10, has_captions=False)
    assert not list(refusals.passed(rows([BAD] * 5)))
    with pytest.raises(StorageError):
        list(refusals.rest())


def test_images_are_counted_not_the_answers_about_them() -> None:
    refusals = Refusals(10, has_captions=False)
    assert not list(refusals.passed(rows([BAD] * 5, num_prompts=3)))
    assert sum(map(len, refusals.passed(rows([FINE], num_prompts=3)))) == 18
    assert sum(map(len, refusals.passed(rows([BAD] * 9, num_prompts=3)))) == 27
    with pytest.raises(StorageError, match="10 images in a row"):
        list(refusals.passed(rows([BAD], num_prompts=3)))
