"""Work that may kill its process, or never end: watched, or done in a process of its own.

Native code (an image decoder, a model's kernels) can end a process or hang it, and neither raises
an exception. `HangWatch` turns a hang into the end of the process, which Ray notices and replaces.
`Isolated` turns the end of a process, and a hang, into an exception: so the one image behind it
can be told from its neighbours.
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
    """The process that was to answer has ended, or took too long and was ended."""


class HangWatch:
    """Ends this process when what it watches begins and ends nothing for so long.

    One a process. The standard library's watchdog is a thread in C: it fires even where native code
    holds Python's lock, and writes to standard error where all threads stood.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = Lock()
        self._num_running = 0
        self._wound_at: float | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Watch the work of a `with` block. Threads may be in such blocks side by side."""
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
        """Give what runs its whole time again; not at every image, as it takes a new thread."""
        at = time.monotonic()
        if not self._num_running:
            faulthandler.cancel_dump_traceback_later()
            self._wound_at = None
        elif self._wound_at is None or at - self._wound_at > min(1.0, self._limit_s / 10):
            self._wound_at = at
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=2)


class Isolated(Generic[A, R]):
    """A function in a process of its own, started at the first call, and again after its death."""

    def __init__(self, make: Callable[[], Callable[[A], R]]) -> None:
        """Start nothing yet.

        Args:
            make: called in that process, for the function. Can be pickled.
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
            argument: can be pickled.
            limit_s: seconds after which the process is ended; None: wait for ever.

        Raises:
            ProcessDied: it ended, or took too long.
            Exception: what the function raised, or could not be made for.
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

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _start(self) -> Connection:
        # A fresh interpreter: a copy of this one would share locks and an accelerator's state.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=[theirs, self._make], daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        return self._connection

    def _reason(self) -> str:
        """Say how the process ended, and forget it."""
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Answer calls until nobody is there to make any."""
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            argument, limit_s = connection.recv()
        except (EOFError, OSError):
            return
        if limit_s is not None:
            # Should the caller be gone, nobody else ends a hang.
            faulthandler.dump_traceback_later(limit_s + _GRACE_S, exit=True, file=2)
        try:
            function = function or make()
            answer: tuple[bool, Any] = (True, function(argument))
        except Exception as error:  # noqa: BLE001  raised where it was called
            answer = (False, _sendable(error))
        finally:
            faulthandler.cancel_dump_traceback_later()
        connection.send(answer)


def _sendable(error: Exception) -> Exception:
    """Give the error, or its text where it does not survive being pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  of this very process
    except Exception:  # noqa: BLE001  whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
