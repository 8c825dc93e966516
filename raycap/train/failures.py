"""Which failures of workers are worth another try."""

from typing import Any

from ray.train import UserCallback

from raycap.failures import find_error

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
