"""Typed answers: schemas, Arrow types, and the values in answers."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from raycap.answers.typed import (
    AnswerType,
    answer_type,
    as_text,
    choices_schema,
    dump,
    read_schema,
)
from raycap.errors import ConfigError, ErrorCode, ImageError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "uniqueItems": True},
    },
    "required": ["name"],
}
"""`age` and `tags` may be missing."""


def _scalars() -> st.SearchStrategy[tuple[dict[str, Any], st.SearchStrategy[Any]]]:
    enums: list[list[Any]] = [["day", "night"], [1, 5], [0.5, 2], [True], ["", None]]
    return st.one_of(
        st.just(({"type": "string"}, TEXTS)),
        st.just(({"type": "integer"}, st.integers(-(2**63), 2**63 - 1))),
        st.just(({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False))),
        st.just(({"type": "boolean"}, st.booleans())),
        st.just(({"type": ["string", "null"]}, st.none() | TEXTS)),
        st.just(
            ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, st.none() | st.integers(0, 9))
        ),
        st.sampled_from(enums).map(lambda enum: ({"enum": enum}, st.sampled_from(enum))),
    )


def _arrays(inner: Any) -> Any:
    return inner.map(
        lambda pair: ({"type": "array", "items": pair[0]}, st.lists(pair[1], max_size=4))
    )


def _objects(inner: Any) -> Any:
    names = st.text("aZ_ .é1", min_size=1, max_size=3)

    def of(fields: dict[str, Any], num_required: int) -> Any:
        required = list(fields)[:num_required]
        schema = {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in fields.items()},
            "required": required,
        }
        values = {name: value for name, (_, value) in fields.items()}
        return schema, st.fixed_dictionaries(
            {name: values[name] for name in required},
            optional={name: values[name] for name in values if name not in required},
        )

    return st.builds(of, st.dictionaries(names, inner, min_size=1, max_size=4), st.integers(0, 4))


SCHEMAS = st.recursive(_scalars(), lambda inner: _arrays(inner) | _objects(inner), max_leaves=6)


def _with_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """Write null for what is missing, as a column does."""
    if isinstance(value, dict):
        properties = schema["properties"]
        return {name: _with_nulls(value.get(name), properties[name]) for name in properties}
    if isinstance(value, list):
        return [_with_nulls(item, schema["items"]) for item in value]
    return value


@settings(deadline=None)
@given(st.data())
def test_every_valid_value_is_read_and_survives_parquet_unchanged(data: st.DataObject) -> None:
    schema, values = data.draw(SCHEMAS)
    value = data.draw(values)
    Draft202012Validator(schema).validate(value)
    answers = AnswerType(schema)
    found = answers.parse(json.dumps(value, ensure_ascii=data.draw(st.booleans())))
    assert found == _with_nulls(value, schema)
    column = answers.array([dump(found), None])
    assert column.type == answers.arrow
    file = io.BytesIO()
    pq.write_table(pa.table({"value": column}), file)
    assert pq.read_table(file)["value"].to_pylist() == [found, None]


@settings(deadline=None)
@given(st.data())
def test_what_an_enforced_answer_may_be_is_valid(data: st.DataObject) -> None:
    schema, values = data.draw(SCHEMAS)
    answers = AnswerType(schema)
    full = _with_nulls(data.draw(values), schema)
    Draft202012Validator.check_schema(answers.enforced())
    Draft202012Validator(answers.enforced()).validate(full)
    assert answers.parse(dump(full)) == full
    sent = answers.response_format()["json_schema"]["schema"]
    wrapped = full if sent["properties"].keys() != {"answer"} else {"answer": full}
    if answers.json_schema["type"] == "object" or "answer" in wrapped:
        Draft202012Validator(sent).validate(wrapped)
        assert answers.parse(dump(wrapped)) == full


@settings(deadline=None)
@given(st.text(), SCHEMAS)
def test_every_answer_is_a_value_or_has_a_code(answer: str, schema: Any) -> None:
    _value_or_code(AnswerType(schema[0]), answer)


@settings(deadline=None)
@given(
    st.text('{}[]":,. \n`1ae-') | st.recursive(TEXTS, st.lists).map(json.dumps),
    st.sampled_from([PERSON, choices_schema(["a", "b"]), {"type": "number"}]),
)
def test_every_answer_like_json_is_a_value_or_has_a_code(
    answer: str, schema: dict[str, Any]
) -> None:
    _value_or_code(AnswerType(schema), answer)


def _value_or_code(answers: AnswerType, answer: str) -> None:
    found = error = None
    try:
        found = answers.parse(answer)
    except ImageError as caught:
        error = caught
    if error is None:
        assert answers.array([dump(found)]).to_pylist() == [found]
    else:
        assert error.code is ErrorCode.WRONG_TYPE
        assert error.message.encode()


ANN = {"name": "Ann", "age": 3, "tags": None}


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ann", "age": 3}',
        '\n {"name": "Ann", "age": 3.0, "tags": null}\n',
        'Sure! Here it is:\n```json\n{"name": "Ann", "age": 3}\n```\nAnything else?',
        '```\n{"name": "Ann",\n "age": 3}\n```',
        'The [image] shows {"name": "Ann", "age": 3}, and "more".',
        'First {"x": 1}, or better {"name": "Ann", "age": 3}',
    ],
)
def test_json_is_taken_out_of_fences_and_prose(answer: str) -> None:
    assert AnswerType(PERSON).parse(answer) == ANN


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("", "no JSON"),
        ("Ann, 3", "no JSON"),
        ('{"name": "Ann", "age": 3', "no JSON"),
        ('{"name": "Ann", "name": "Bob"}', "no JSON"),
        ('{"name": "Ann", "age": 1e999}', "no JSON"),
        ('{"name": "Ann", "age": NaN}', "no JSON"),
        ("[" * 100_000, "nested"),
        ('{"age": 3}', "$"),
        ('{"name": null}', "$.name"),
        ('{"name": "A"}', "$.name"),
        ('{"name": "Ann", "age": -1}', "$.age"),
        ('{"name": "Ann", "age": 1.5}', "$.age"),
        ('{"name": "Ann", "age": true}', "$.age"),
        ('{"name": "Ann", "age": 9223372036854775808}', "$.age"),
        ('{"name": "Ann", "age": 1' + "0" * 300 + "}", "$.age"),
        ('{"name": "Ann\\ud800"}', "$.name"),
        ('{"name": "Ann", "tags": ["red", "green"]}', "$.tags[1]"),
        ('{"name": "Ann", "size": 3}', "$"),
    ],
)
def test_another_answer_has_a_code_and_says_where(answer: str, place: str) -> None:
    with pytest.raises(ImageError) as caught:
        AnswerType(PERSON).parse(answer)
    assert caught.value.code is ErrorCode.WRONG_TYPE
    assert place in caught.value.message
    assert len(caught.value.message) <= 300


def test_choices_are_a_list_of_distinct_texts() -> None:
    answers = answer_type(json.dumps(choices_schema(["dog", "cat", "dog"])))
    assert answers.arrow == pa.list_(pa.string())
    assert answers.parse('["cat", "dog", "cat"]') == ["cat", "dog"]
    assert answers.parse('{"answer": ["cat"]}') == ["cat"]
    assert answers.parse("[]") == []
    with pytest.raises(ImageError):
        answers.parse('["bird"]')


def test_a_text_needs_no_quotes() -> None:
    answers = AnswerType({"enum": ["day", "night"]})
    assert answers.parse(" night\n") == answers.parse('"night"') == "night"


def test_a_pattern_is_checked_within_a_time_limit() -> None:
    answers = AnswerType({"type": "string", "pattern": "^(a+)+$"})
    assert answers.parse("aaa") == "aaa"
    with pytest.raises(ImageError) as caught:
        answers.parse("a" * 1000 + "!")
    assert caught.value.code is ErrorCode.WRONG_TYPE


def test_references_and_single_alternatives_are_put_in_place() -> None:
    schema = {
        "$defs": {"word": {"type": "string", "description": "a word"}},
        "type": "object",
        "properties": {
            "first": {"$ref": "#/$defs/word", "description": "the first"},
            "second": {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]},
            "third": {"allOf": [{"$ref": "#/$defs/word"}]},
            "fourth": {"const": 4},
        },
    }
    fields = {"first": pa.string(), "second": pa.string(), "third": pa.string()}
    assert AnswerType(schema).arrow == pa.struct([*fields.items(), ("fourth", pa.int64())])


def _inner(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}}


LOOP = {**_inner({"type": "array", "items": {"$ref": "#"}})}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({}, "type"),
        ({"type": "text"}, "type"),
        ({"type": ["string", "integer"]}, "type"),
        ({"type": "null"}, "type"),
        ({"enum": ["a", 1]}, "type"),
        ({"type": "string", "enum": [1]}, "enum"),
        ({"enum": [{}]}, "enum"),
        ({"enum": [2**64]}, "enum"),
        ({"type": "object"}, ""),
        ({"type": "array"}, ""),
        (_inner(True), "properties.x"),
        (_inner({"type": "array", "items": {"type": "object"}}), "properties.x.items"),
        (_inner({"oneOf": [{"type": "string"}, {"type": "integer"}]}), "properties.x.oneOf"),
        (_inner({"$ref": "#/nothing"}), "properties.x.$ref"),
        (_inner({"$ref": "https://example.com/schema"}), "properties.x.$ref"),
        (_inner({"type": "string", "not": {}}), "properties.x.not"),
        (_inner({"type": "string", "pattern": "("}), "properties.x.pattern"),
        ({**_inner({"type": "string"}), "additionalProperties": True}, "additionalProperties"),
        ({**_inner({"type": "string"}), "required": ["y"]}, "required"),
        (_inner({"type": "string", "minLength": -1}), "properties.x.minLength"),
        (LOOP, "properties.x.items.properties.x.items.$ref"),
        ({"type": "object", "properties": {"": {"type": "string"}}}, "properties."),
    ],
)
def test_an_unsupported_schema_is_refused_with_the_place(schema: Any, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AnswerType(schema, "prompts.a.json_schema")
    assert caught.value.setting == "prompts.a.json_schema"
    assert str(caught.value).startswith(f"prompts.a.json_schema{'.' if place else ''}{place}: ")


def test_a_schema_comes_from_a_file_or_in_line(tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    assert read_schema(str(file), "s") == read_schema(PERSON, "s") == PERSON
    file.write_text("[]")
    for path in (file, tmp_path / "none.json"):
        with pytest.raises(ConfigError) as caught:
            read_schema(str(path), "s")
        assert (caught.value.setting, caught.value.uri) == ("s", str(path))


def test_a_value_as_text() -> None:
    assert as_text("a dog") == "a dog"
    assert as_text(["red", "blue"]) == "red, blue"
    assert as_text([]) == "[]"
    assert as_text({"é": [1]}) == '{"é": [1]}'
