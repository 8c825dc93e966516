"""Which failures of workers are worth another try, and what they tell the user."""

from collections.abc import Iterator
from typing import Any

from ray.train import UserCallback

from raycap.errors import RaycapError, RunStopped

_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
)
"""Errors that a lost worker or node never causes: the same would happen again."""


class StopAtFaults(UserCallback):
    """Keeps Ray Train from starting workers anew after an error that would only come again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise such an error: Ray Train gives up at an exception out of here."""
        del run_context
        for error in worker_exceptions.values():
            ours = find_error(error)
            if ours is not None:
                raise ours
            if isinstance(error, _FAULTS):
                raise error


def find_error(error: BaseException) -> RaycapError | None:
    """Find raycap's own error in what Ray made of it."""
    return next((found for found in _unwrapped(error) if isinstance(found, RaycapError)), None)


def explain(error: Exception) -> RaycapError:
    """Turn what Ray Train raised into one clear line."""
    found = find_error(error)
    if found is not None:
        return found
    first_line = " ".join(str(error).split())[:500]
    return RunStopped(
        f"the workers gave up ({type(error).__name__}: {first_line}); run the same command to "
        "continue from the last checkpoint, with --debug to see the workers' own output"
    )


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps."""
    waiting = [error]
    while waiting:
        found = waiting.pop(0)
        yield found
        inner = [
            getattr(found, "controller_failure", None),
            *getattr(found, "worker_failures", {}).values(),
            getattr(found, "cause", None),
            found.__cause__,
        ]
        waiting += [item for item in inner if isinstance(item, BaseException)]
