"""Protection from code that kills or hangs its process: a watchdog, and child processes.

Native code (an image decoder, kernels of a model) can kill or hang a process without raising an
exception. `HangWatch` ends a process that hangs, which Ray notices and replaces. `Isolated` turns
the death or hang of a child process into an exception, so that the image that causes it can be
identified.
"""

import faulthandler
import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

_GRACE_S = 10.0


class ProcessDied(Exception):
    """A child process has died, or was killed because it exceeded its time limit."""


class HangWatch:
    """Ends this process if watched work neither starts nor finishes for a given time.

    Use one per process. The watchdog of the standard library is a C thread: it works even if native
    code holds Python's lock, and it writes the stack of every thread to standard error.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = Lock()
        self._num_running = 0
        self._wound_at: float | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch a `with` block. Several threads may be in such blocks at the same time."""
        with self._lock:
            self._num_running += 1
            self._wind_up()
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                self._wind_up()

    def _wind_up(self) -> None:
        """Restart the time limit; not for every image, because each restart creates a thread."""
        at = time.monotonic()
        if not self._num_running:
            faulthandler.cancel_dump_traceback_later()
            self._wound_at = None
        elif self._wound_at is None or at - self._wound_at > min(1.0, self._limit_s / 10):
            self._wound_at = at
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=2)


class Isolated(Generic[A, R]):
    """A function in a child process, which is started at the first call and after each death."""

    def __init__(self, make: Callable[[], Callable[[A], R]]) -> None:
        """Prepare; the first call starts the process.

        Args:
            make: Called in the child process to create the function. Picklable.
        """
        self._make = make
        self._process: Any = None
        self._connection: Connection | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None

    def __call__(self, argument: A, limit_s: float | None = None) -> R:
        """Call the function.

        Args:
            argument: Picklable.
            limit_s: Seconds after which the process is killed; None for no limit.

        Raises:
            ProcessDied: the process died or exceeded the limit.
            Exception: an error raised by the function, or while creating it.
        """
        connection = self._connection or self._start()
        try:
            connection.send((argument, limit_s))
            if not connection.poll(limit_s):
                self.close()
                raise ProcessDied(f"took more than {limit_s:g} s")
            is_result, result = connection.recv()
        except (EOFError, OSError):
            raise ProcessDied(self._reason()) from None
        if is_result:
            found: R = result
            return found
        raise result

    def start(self) -> None:
        """Start the process now, so that the first call does not wait for it."""
        if self._connection is None:
            self._start()

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _start(self) -> Connection:
        # A new interpreter: a fork would share locks and the state of an accelerator.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=[theirs, self._make], daemon=True)
        self._process.start()
        theirs.close()  # so that this process sees the end of the child
        return self._connection

    def _reason(self) -> str:
        """Return how the process ended, and reset."""
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Serve calls until the parent closes the connection."""
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            argument, limit_s = connection.recv()
        except (EOFError, OSError):
            return
        if limit_s is not None:
            # If the parent is gone, nothing else ends a hang.
            faulthandler.dump_traceback_later(limit_s + _GRACE_S, exit=True, file=2)
        try:
            function = function or make()
            answer: tuple[bool, Any] = (True, function(argument))
        except Exception as error:  # noqa: BLE001  raised again in the parent
            answer = (False, _sendable(error))
        finally:
            faulthandler.cancel_dump_traceback_later()
        connection.send(answer)


def _sendable(error: Exception) -> Exception:
    """Return the error, or one with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made by this process
    except Exception:  # noqa: BLE001  its class may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
