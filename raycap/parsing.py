"""Parsing JSON and YAML that users and other programs wrote: whatever is wrong is a ValueError."""

import json
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
