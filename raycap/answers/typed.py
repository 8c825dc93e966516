"""Typed answers: the value that an answer holds, if it satisfies the JSON schema of its prompt.

Every answer becomes a value of the schema, or an ImageError with the code `wrong_type`. In the
value, a property that is missing is null, as it is in a column; and null counts as missing where a
property is not required and may not be null, as models write it there.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycap.answers.shapes import Shape, shape_of
from raycap.errors import ConfigError, ErrorCode, ImageError
from raycap.parsing import parse_json
from raycap.text import brief

WRAPPED = "answer"
"""The property of the object in which servers send a value that is not an object."""

_MAX_STARTS = 100
_LONGEST_REASON = 300
_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_DECLARED = {
    *("type", "enum", "items", "properties", "additionalProperties", "required"),
    *("minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_OF_TEXTS = {"minLength", "maxLength"}


class AnswerType:
    """The type of the answers to a prompt. Threads may share it."""

    def __init__(self, schema: Mapping[str, Any], setting: str = "json_schema") -> None:
        """Read a JSON schema.

        Args:
            schema: as a user wrote it.
            setting: the name of the setting that has it.

        Raises:
            ConfigError: it is not a JSON schema, or says something that is not supported.
        """
        from raycap.answers.validation import validator  # noqa: PLC0415  jsonschema is slow

        self._shape = shape_of(schema, setting)
        self._fault = validator(self._shape.schema)

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of its values."""
        return self._shape.arrow

    @property
    def json_schema(self) -> dict[str, Any]:
        """The schema without references, notes and doubt."""
        return self._shape.schema

    def parse(self, answer: str) -> Any:
        """Return the value of an answer: its JSON, wherever that is in it.

        Raises:
            ImageError: it has no JSON, or JSON of another type.
        """
        reason = None
        try:
            for value in self._values(answer):
                cleaned = _cleaned(value, self._shape)
                fault = self._fault(cleaned)
                if fault is None:
                    return _filled(cleaned, self._shape)
                reason = reason or fault
        except RecursionError:
            reason = "it is nested too deeply"
        reason = reason or f"it has no JSON: {answer!r}"
        raise ImageError(ErrorCode.WRONG_TYPE, brief(reason, _LONGEST_REASON))

    def array(self, values: Iterable[str | None]) -> pa.Array:
        """Return a column of values that `dump` wrote; None for none."""
        parsed = [None if value is None else json.loads(value) for value in values]
        return pa.array(parsed, self.arrow)

    def enforced(self) -> dict[str, Any]:
        """Return the schema in the words that structured outputs of local models understand.

        What it leaves out is checked when the answer is parsed. All properties are required there,
        and null is allowed where they are not.
        """
        return _declared(self._shape, _DECLARED | _OF_TEXTS)

    def response_format(self, name: str = WRAPPED) -> dict[str, Any]:
        """Return the field `response_format` of a request to an OpenAI-compatible server.

        Such servers want an object; another value is wrapped in one, which `parse` takes off.
        """
        schema = _declared(self._shape, _DECLARED)
        if not self._shape.properties:
            schema = {
                "type": "object",
                "properties": {WRAPPED: schema},
                "required": [WRAPPED],
                "additionalProperties": False,
            }
        found = {"name": name, "strict": True, "schema": schema}
        return {"type": "json_schema", "json_schema": found}

    def _values(self, answer: str) -> Iterator[Any]:
        """Yield the JSON values in an answer, the likeliest first."""
        for value in _json_values(answer):
            yield value
            if not self._shape.properties and isinstance(value, dict) and value.keys() == {WRAPPED}:
                yield value[WRAPPED]
        if self._shape.arrow == pa.string():
            yield answer.strip()


@lru_cache(maxsize=256)
def answer_type(json_schema: str) -> AnswerType:
    """Return the type for a schema in JSON, as a Question has it."""
    return AnswerType(parse_json(json_schema))


def read_schema(given: Mapping[str, Any] | str, setting: str) -> dict[str, Any]:
    """Return a JSON schema that a setting has, or the path of a file with it.

    Raises:
        ConfigError: the file cannot be read, or does not hold a JSON object.
    """
    if not isinstance(given, str):
        return dict(given)
    try:
        found = parse_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{setting}: {given}: cannot be read as JSON: {reason}", setting=setting, uri=given
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{setting}: {given}: must hold a JSON schema, which is an object",
            setting=setting,
            uri=given,
        )
    return found


def choices_schema(choices: Sequence[str]) -> dict[str, Any]:
    """Return the schema of a list of distinct texts, each of which is one of these."""
    distinct = list(dict.fromkeys(choices))
    return {
        "type": "array",
        "items": {"type": "string", "enum": distinct},
        "uniqueItems": True,
        "maxItems": len(distinct),
    }


def dump(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def as_text(value: Any) -> str:
    """Return a value as a caption: a text as it is, a list of texts with commas, others as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return dump(value)


def _json_values(answer: str) -> Iterator[Any]:
    for text in (answer, *_FENCED.findall(answer)):
        try:
            yield _DECODER.decode(text.strip())
        except ValueError:
            continue
    starts = [found.start() for found in re.finditer(r"[\[{]", answer)][:_MAX_STARTS]
    end = 0
    for start in starts:
        if start < end:
            continue  # within the value before
        try:
            value, end = _DECODER.raw_decode(answer, start)
        except ValueError:
            continue
        yield value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a property occurs twice")
    return found


def _integer(digits: str) -> int | float:
    """Return an integer; a float if it has more digits than any that a column holds."""
    return int(digits) if len(digits) <= len(str(-(2**63))) else _float(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)


def _cleaned(value: Any, shape: Shape) -> Any:
    """Return a value without null for missing properties, and without repeated choices."""
    if isinstance(value, dict) and shape.properties:
        return {
            name: _cleaned(inner, shape.properties[name]) if name in shape.properties else inner
            for name, inner in value.items()
            if inner is not None or not _may_be_missing(name, shape)
        }
    if isinstance(value, list) and shape.item is not None:
        items = [_cleaned(item, shape.item) for item in value]
        return _distinct(items) if _is_choice(shape) else items
    return value


def _may_be_missing(name: str, shape: Shape) -> bool:
    found = shape.properties.get(name)
    return found is not None and name not in shape.required and not found.is_nullable


def _is_choice(shape: Shape) -> bool:
    """Whether a list is a set of texts from a fixed list, in which a repeated one says nothing."""
    item = shape.schema["items"]
    return bool(shape.schema.get("uniqueItems")) and item["type"] == "string" and "enum" in item


def _distinct(items: list[Any]) -> list[Any]:
    if not all(isinstance(item, str) for item in items):
        return items
    return list(dict.fromkeys(items))


def _filled(value: Any, shape: Shape) -> Any:
    """Return a valid value as a column holds it: null for missing properties, numbers as floats."""
    if value is None:
        return None
    if shape.properties:
        return {name: _filled(value.get(name), one) for name, one in shape.properties.items()}
    if shape.item is not None:
        return [_filled(item, shape.item) for item in value]
    if shape.arrow == pa.float64():
        return float(value)
    return int(value) if shape.arrow == pa.int64() else value


def _declared(shape: Shape, names: set[str]) -> dict[str, Any]:
    found = {name: value for name, value in shape.schema.items() if name in names}
    if shape.arrow == pa.int64():  # bounds of the column, which no answer comes near
        found = {key: value for key, value in found.items() if value not in (-(2**63), 2**63 - 1)}
    if shape.item is not None:
        found["items"] = _declared(shape.item, names)
    if shape.properties:
        found["required"] = list(shape.properties)
        found["properties"] = {
            name: _or_null(one, names) if name not in shape.required else _declared(one, names)
            for name, one in shape.properties.items()
        }
    return found


def _or_null(shape: Shape, names: set[str]) -> dict[str, Any]:
    found = _declared(shape, names)
    if shape.is_nullable:
        return found
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    return {**found, "type": [found["type"], "null"]}
