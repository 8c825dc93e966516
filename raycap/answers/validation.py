"""Checks of JSON values and schemas, by jsonschema: slow to import, and only for typed answers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import extend

PATTERN_TIMEOUT_S = 2.0
"""Time that a pattern may take for one text."""


def schema_fault(schema: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """Return what is wrong with a JSON schema: the place, and the reason; None if nothing is."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return tuple(map(str, error.absolute_path)), error.message
    return None


def validator(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """Return a function that says what is wrong with a value, and where; None if nothing is.

    Args:
        schema: a valid JSON schema.
    """
    checks = _Validator(schema)

    def fault(value: Any) -> str | None:
        error = best_match(checks.iter_errors(value))
        return None if error is None else f"{error.json_path}: {error.message}"

    return fault


def _pattern(
    validator: Any, pattern: str, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Check a pattern as JSON Schema does, within a time limit."""
    del schema
    if not validator.is_type(instance, "string"):
        return
    try:
        is_found = regex.search(pattern, instance, timeout=PATTERN_TIMEOUT_S)
    except TimeoutError:
        yield ValidationError(f"{pattern!r} takes over {PATTERN_TIMEOUT_S:g} s for {instance!r}")
        return
    if not is_found:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unicode(
    validator: Any, types: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Check the type, and that a text can be written as UTF-8."""
    yield from Draft202012Validator.VALIDATORS["type"](validator, types, instance, schema) or ()
    if isinstance(instance, str):
        try:
            instance.encode()
        except UnicodeEncodeError:
            yield ValidationError(f"{instance!r} is not Unicode")


_extend: Any = extend  # untyped there
_Validator = _extend(Draft202012Validator, {"pattern": _pattern, "type": _unicode})
