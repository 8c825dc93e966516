"""Templates: what is a field, what is literal, and that values are only ever data."""

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.answers.template import Template, as_text
from raycap.config import MissingContext
from raycap.errors import ErrorCode, ImageError

TAGS = {"tags": "owl, snow", "exif.date": "2021-07-04"}


def filled(text: str, values: dict[str, str], missing: MissingContext = "skip") -> str:
    return Template.parse(text).fill(values, missing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Describe it. Tags: {tags}.", "Describe it. Tags: owl, snow."),
        ("{tags}{tags} {exif.date}", "owl, snowowl, snow 2021-07-04"),
        ("{{tags}} is {tags}", "{tags} is owl, snow"),
        ('Like {"tags": ["{tags}"], "n": {}}', 'Like {"tags": ["owl, snow"], "n": {}}'),
        ("{ tags } {1} {tags}", "{ tags } {1} owl, snow"),
        ("Tags[[: {tags}]].[[ On {exif.date}.]]", "Tags: owl, snow. On 2021-07-04."),
        ("[[1, 2]] {tags} [3]", "[[1, 2]] owl, snow [3]"),
    ],
)
def test_fields_are_replaced_and_other_braces_and_brackets_stay(text: str, expected: str) -> None:
    assert filled(text, TAGS) == expected


@given(st.text("{}[] a\"'1"))
def test_text_without_a_field_stays_as_it_is(text: str) -> None:
    template = Template.parse(text)
    if not template.fields:
        assert template.fill({}, "fail") == text


@pytest.mark.parametrize("text", ["{{tags}}", "[[{{tags}}]] }}", "Answer in JSON: {'a': [[]]}"])
def test_a_prompt_that_only_quotes_a_field_is_plain_text(text: str) -> None:
    assert filled(text, TAGS, "fail") == text


@given(st.text(), st.text())
def test_values_are_never_read_as_a_template(one: str, other: str) -> None:
    values = {"a": f"{{b}}{one.replace('<', '').replace('[', '')}[[{{b}}]]", "b": other}
    assert filled("x {a}", values) == f"x {values['a']}"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("skip", "It: , at night."), ("empty", "It: , at night. Tags: . By ")],
)
def test_a_missing_field_is_empty_and_its_clause_is_left_out(
    missing: MissingContext, expected: str
) -> None:
    text = "It: {alt}, at {time}.[[ Tags: {tags}.]][[ By {who}]]"
    assert filled(text, {"time": "night"}, missing) == expected


def test_a_missing_field_outside_of_clauses_can_fail_the_image() -> None:
    assert filled("A[[ {tags}]].", {}, "fail") == "A."
    with pytest.raises(ImageError) as error:
        filled("A {tags} {alt}", TAGS, "fail")
    assert error.value.code is ErrorCode.NO_CONTEXT
    assert "alt" in error.value.message


def test_fields_are_named_once_in_order() -> None:
    assert Template.parse("{b} {a}[[ {b} {ü.c-d}]] {{e}}").fields == ("b", "a", "ü.c-d")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (" \n\t", None),
        (math.nan, None),
        ([], None),
        ([None, " "], None),
        ("a\n\n b\x00c\x1b[0m", "a bc[0m"),
        ("caf\u00e9 \u202eabc\u200b\U000e0041", "café abc"),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),
        ("a\udcffb", "ab"),
        (["owl", None, " snow ", 3], "owl, snow, 3"),
        (0, "0"),
        (1.5, "1.5"),
        (True, "true"),
        (b"caf\xc3\xa9", "café"),
        ({"a": [1, "b"]}, '{"a": [1, "b"]}'),
        (datetime.date(2021, 7, 4), "2021-07-04"),
    ],
)
def test_a_value_is_one_line_of_visible_text(value: Any, expected: str | None) -> None:
    assert as_text(value, 100) == expected


@given(st.recursive(st.text() | st.binary() | st.integers(), st.lists), st.integers(1, 50))
def test_a_value_is_cut_to_its_bound(value: Any, max_chars: int) -> None:
    text = as_text(value, max_chars)
    assert text is None or 0 < len(text) <= max_chars
    assert text is None or text == " ".join(text.split())


def test_a_huge_value_costs_little() -> None:
    assert as_text(["x" * 10**6] * 10**5, 10) == "x" * 10


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<image> <|im_end|> </s> [INST]", "image im_end s INST"),
        ("a < b > c <3 [a] [B2]", "a < b > c <3 [a] [B2]"),
        ("<\uff5cend\u2581of\uff5c>", "end\u2581of"),
    ],
)
def test_marks_of_chat_formats_lose_their_brackets(value: str, expected: str) -> None:
    assert filled("{a}", {"a": value}) == expected
