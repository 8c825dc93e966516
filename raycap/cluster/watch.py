"""A watch over the processes that Ray cannot do without.

Where they are gone, Ray's C++ code ends this process without a word, at once or after a minute.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType

from raycap.errors import EXIT_STOPPED, RunStopped

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_INTERRUPT_EVERY_S = 5.0
_GRACE_S = 10.0
_CONTINUE = "what is finished is kept: run the same command to continue"

WaitForEnd = Callable[[float], str | None]
"""Waits for at most this many seconds; returns what is gone, as a message, or None."""


class Watch:
    """Says when Ray is gone, and interrupts this process; ends it if that does not help."""

    def __init__(self, wait: WaitForEnd, end_all: Callable[[], None]) -> None:
        """Prepare; the watch begins with the block.

        Args:
            wait: waits for the end of Ray.
            end_all: ends what is left of Ray.
        """
        self._wait = wait
        self._end_all = end_all
        self._has_ended = threading.Event()
        self._is_main = threading.current_thread() is threading.main_thread()
        self.reason: str | None = None
        """What is gone; None while all is well."""

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._run, daemon=True, name="raycap-watch").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._has_ended.set()
        if self.reason is None:
            return
        self._end_all()
        if error is not None:  # whatever failed, failed because of it
            raise RunStopped(self.reason) from None

    def _run(self) -> None:
        while not self._has_ended.is_set():
            reason = self._wait(_LOOK_EVERY_S)
            if reason is not None and not self._has_ended.is_set():
                self.reason = f"{reason}; {_CONTINUE}"
                logger.error("ray_ended %s", self.reason)  # at once: Ray may end this process next
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Interrupt the main thread until it leaves the block; after a while, end the process."""
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if self._is_main:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if self._has_ended.wait(_INTERRUPT_EVERY_S):
                return
        self._end_all()
        os._exit(EXIT_STOPPED)
