"""A watch over the processes that Ray cannot do without.

Where they are gone, Ray's C++ code ends this process after a minute, without a word.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from raycap.errors import EXIT_STOPPED, RunStopped

_LOOK_EVERY_S = 1.0
_INTERRUPT_EVERY_S = 5.0
_GRACE_S = 20.0

IsGone = Callable[[], str | None]
"""Returns what is gone, as a message; None while all is well."""


class Watch:
    """Interrupts this process when Ray is gone; ends it if that does not help."""

    def __init__(self, is_gone: IsGone) -> None:
        self._is_gone = is_gone
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
        # Whatever failed, failed because of it.
        if self.reason is not None and error is not None:
            raise RunStopped(self.reason) from None

    def _run(self) -> None:
        while not self._has_ended.wait(_LOOK_EVERY_S):
            self.reason = self._is_gone()
            if self.reason is not None:
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
        sys.stderr.write(f"error: {self.reason}\n")
        sys.stderr.flush()
        os._exit(EXIT_STOPPED)
