"""What went wrong on the cluster, as an error of raycap: Ray wraps what its workers raise."""

import re
from collections.abc import Iterator

from raycap.errors import RaycapError, RunStopped

# What Ray Data writes into the error that a stage has raised, of settings that raycap makes.
_RETRY_ADVICE = re.compile(r"\nFailed to .*? after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


def find_error(error: BaseException) -> RaycapError | None:
    """Find raycap's own error in what Ray made of it."""
    found = next((item for item in _unwrapped(error) if isinstance(item, RaycapError)), None)
    # What Ray raises for a task is an instance of its error's class too, and tells a traceback.
    while isinstance(cause := getattr(found, "cause", None), RaycapError):
        found = cause
    if found is not None and found.args and isinstance(found.args[0], str):
        found.args = (_RETRY_ADVICE.sub("", found.args[0]), *found.args[1:])
    return found


def explain(error: BaseException, remedy: str) -> RaycapError:
    """Turn what Ray raised into one clear line.

    Args:
        error: as it came out of Ray.
        remedy: what stays and what to do, where no error of raycap is behind it.
    """
    found = find_error(error)
    if found is not None:
        return found
    first_line = " ".join(str(error).split())[:500]
    return RunStopped(
        f"the cluster gave up ({type(error).__name__}: {first_line}); {remedy}, with --debug to "
        "see the workers' own output"
    )


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps."""
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
