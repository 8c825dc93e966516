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


def renamed_flags(**flags: tuple[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that accepts flags which have become values of one argument.

    Args:
        flags: the present argument and its value by the name of the old flag.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = kwargs
            for old, (new, value) in flags.items():
                is_set = given.pop(old, None)
                if is_set is not None:
                    _check_new(function.__name__, given, old, new)
                    _warn(function.__name__, repr(old), f"{new}={value!r}")
                if is_set:
                    given[new] = value
            return function(*args, **kwargs)

        return call

    return decorate


def _move(function: str, given: dict[str, Any], old: str, new: str) -> None:
    _check_new(function, given, old, new)
    _warn(function, repr(old), repr(new))
    given[new] = given.pop(old)


def _check_new(function: str, given: dict[str, Any], old: str, new: str) -> None:
    if new in given:
        raise TypeError(f"{function}() was given both {new!r} and its old name {old!r}")


def _warn(function: str, old: str, new: str) -> None:
    warnings.warn(
        f"raycap.{function}(): {old} is now {new}; the old name works in this version only",
        DeprecationWarning,
        stacklevel=4,
    )
