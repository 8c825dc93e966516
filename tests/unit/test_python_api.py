"""Every command of the command line is a documented, typed function of the package."""

import inspect
from typing import get_type_hints

import pytest

import raycap
from raycap.console import ALL_COMMANDS
from tests.support.cli import function_name

FUNCTIONS = [function_name(name) for name in ALL_COMMANDS if name != "demo"] + ["preflight"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_command_is_a_function_with_docstring_and_types(name: str) -> None:
    function = getattr(raycap, name)
    assert name in raycap.__all__
    text = inspect.getdoc(function) or ""
    assert "Raises:" in text or "Returns:" in text
    hints = get_type_hints(function)
    assert set(inspect.signature(function).parameters) | {"return"} == set(hints)


def test_every_public_name_is_found() -> None:
    for name in raycap.__all__:
        assert getattr(raycap, name) is not None
    assert set(raycap.__all__) == set(raycap._SOURCES)
    assert set(raycap.__all__) <= set(dir(raycap))
