"""Errors of the cluster as raycap's errors: Ray wraps what its workers raise."""

import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType, TracebackType

from raycap.errors import RaycapError, RunStopped

# Ray Data appends advice to an error of a stage, about settings that raycap makes itself.
_RETRY_ADVICE = re.compile(r"\nFailed to .*? after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


class ClusterFailed(RunStopped):
    """Ray failed, and not the work that it did."""


def find_error(error: BaseException) -> RaycapError | None:
    """Return raycap's own error that an error of Ray wraps; None if there is none."""
    found = next((item for item in _unwrapped(error) if isinstance(item, RaycapError)), None)
    # Ray's error for a task is also an instance of the task's error, with a traceback as text.
    while isinstance(cause := getattr(found, "cause", None), RaycapError):
        found = cause
    if found is not None and found.args and isinstance(found.args[0], str):
        found.args = (_RETRY_ADVICE.sub("", found.args[0]), *found.args[1:])
    return found


def explain(error: BaseException, remedy: str) -> RaycapError:
    """Turn an error of Ray into an error of raycap, with a message of one line.

    The actors of the work that failed end, so that their CPUs and GPUs are free.

    Args:
        error: as Ray raised it.
        remedy: what the user can do, for an error that raycap did not raise.
    """
    _release(error)
    found = find_error(error)
    if found is not None:
        return found
    first_line = " ".join(str(error).split())[:500]
    return ClusterFailed(
        f"the cluster failed ({type(error).__name__}: {first_line}); {remedy}, with --debug to "
        "see the workers' own output"
    )


def _release(error: BaseException) -> None:
    """Let go of the actors that the frames of an error hold.

    Ray Data ends actors by forgetting them. Whoever keeps the error, as a notebook does, would keep
    CPUs and GPUs that the next run needs.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            _clear(found.__traceback__)
            waiting += [found.__cause__, found.__context__]
    gc.collect()


def _clear(trace: TracebackType | None) -> None:
    """Forget the values of all frames of a traceback, and of their callers, which they hold."""
    for frame, _ in traceback.walk_tb(trace):
        caller: FrameType | None = frame
        while caller is not None:
            with suppress(RuntimeError):  # it is running
                caller.clear()
            caller = caller.f_back


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it wraps."""
    waiting = [error]
    while waiting:
        found = waiting.pop(0)
        yield found
        inner = [
            getattr(found, "controller_failure", None),  # of Ray Train, as the next
            *getattr(found, "worker_failures", {}).values(),
            getattr(found, "cause", None),
            found.__cause__,
        ]
        waiting += [item for item in inner if isinstance(item, BaseException)]
