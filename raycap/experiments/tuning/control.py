"""Where trials ask whether the search is to stop, and tell that they run."""

import time
from collections.abc import Callable
from typing import Any

import ray

_STOP_WAIT_S = 300.0
_LOOK_EVERY_S = 0.2


class Control:
    """Knows whether the search is to stop, and which trials run; an actor."""

    def __init__(self) -> None:
        self._wants_stop = False
        self._running: set[str] = set()

    def begin(self, name: str) -> bool:
        """Take note that a trial begins; answer whether it is to stop at once."""
        self._running.add(name)
        return self._wants_stop

    def end(self, name: str) -> None:
        """Take note that a trial runs no more."""
        self._running.discard(name)

    def stop(self) -> None:
        """Let all trials stop at their next step."""
        self._wants_stop = True

    def wants_stop(self) -> bool:
        """Answer a trial."""
        return self._wants_stop

    def num_running(self) -> int:
        """Count the trials that run."""
        return len(self._running)


def stop_trials(control: Any, gives_up: Callable[[], bool]) -> None:
    """Let all trials stop at their next step, and wait until they have written a checkpoint.

    Ray Tune would wait for five seconds, and then kill them.

    Args:
        control: the actor.
        gives_up: whether to wait no longer.
    """
    ray.get(control.stop.remote())
    deadline = time.monotonic() + _STOP_WAIT_S
    while not gives_up() and time.monotonic() < deadline:
        if not ray.get(control.num_running.remote()):
            return
        time.sleep(_LOOK_EVERY_S)
