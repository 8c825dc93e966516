"""Parsing what users and other programs wrote: JSON and YAML (a fault is a ValueError), lists."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

_TOO_DEEP = "it is nested too deeply"
# What the constructors of YAML's own types raise for values such as `2026-13-45` and `!!int x`.
_OF_VALUES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested more deeply than Python's stack.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def parse_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        ValueError: it is not YAML, holds a value that is not of its type, or is nested more deeply
            than Python's stack.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (yaml.YAMLError, *_OF_VALUES) as error:
        raise ValueError(" ".join(str(error).split())) from None


def split_names(given: Sequence[str] | str | None) -> list[str] | None:
    """Return the names of an argument: a list, or a text with commas between them."""
    if given is None:
        return None
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
