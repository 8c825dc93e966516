"""Old names of keyword arguments: accepted for one version, with a DeprecationWarning."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that accepts old names of keyword arguments.

    Args:
        names: the present name by the old one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = kwargs
            for old, new in names.items():
                if old in given:
                    _move(function.__name__, given, old, new)
            return function(*args, **kwargs)

        return call

    return decorate


def _move(function: str, given: dict[str, Any], old: str, new: str) -> None:
    if new in given:
        raise TypeError(f"{function}() was given both {new!r} and its old name {old!r}")
    warnings.warn(
        f"raycap.{function}(): {old!r} is now {new!r}; the old name works in this version only",
        DeprecationWarning,
        stacklevel=3,
    )
    given[new] = given.pop(old)
