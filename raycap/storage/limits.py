"""A time limit for work that may wait for others without end."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, TypeVar

from raycap.errors import ErrorCode, TransientError

T = TypeVar("T")


class Connections:
    """The connection that a piece of work reads from, so that it can be cut from outside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._shut_down: Callable[[], object] | None = None
        self._is_cut = False

    def hold(self, shut_down: Callable[[], object] | None) -> None:
        """Note how to end the present connection; None if there is none."""
        with self._lock:
            self._shut_down = shut_down
            is_cut = self._is_cut
        if is_cut:
            self.cut()

    def cut(self) -> None:
        """End the present connection, and any later one."""
        with self._lock:
            self._is_cut = True
            shut_down = self._shut_down
        if shut_down is not None:
            # It may end, or go back to its pool, at the same moment.
            with suppress(OSError, RuntimeError, ValueError):
                shut_down()


def within(limit_s: float, work: Callable[[Connections], T], what: str) -> T:
    """Return what a piece of work returns, or raise what it raises.

    A time-out of a socket limits the wait for the next bytes only: a server that sends a byte every
    second keeps a reader for ever. So the work runs in a thread, which is left behind at the limit.

    Raises:
        TransientError: `timeout`: it took longer than the limit.
    """
    connections = Connections()
    outcome: Future[T] = Future()
    thread = Thread(target=_run, args=(outcome, work, connections), daemon=True)
    thread.start()
    try:
        # The result may be a TimeoutError of its own, so not `result(limit_s)`.
        thread.join(limit_s)
        if not outcome.done():
            connections.cut()
            raise TransientError(
                ErrorCode.TIMEOUT,
                f"{what}: not read within storage.image_timeout_s={limit_s:g}",
                retry_after_s=None,
            )
        return outcome.result()
    finally:
        del outcome  # an exception in it refers to this frame


def _run(
    outcome: "Future[Any]", work: Callable[[Connections], Any], connections: Connections
) -> None:
    try:
        outcome.set_result(work(connections))
    except BaseException as error:  # noqa: BLE001  raised again by the caller
        outcome.set_exception(error)
