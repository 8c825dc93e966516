"""Work on the cluster in the background, while the driver watches the lock, mail and Ctrl-C."""

import logging
import tempfile
import warnings
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError

from raycap.cluster.failures import explain
from raycap.cluster.mailbox import Mail
from raycap.storage.base import WriteLock

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.3


class Background(Generic[T]):
    """One call of Ray Train or Ray Tune, in a thread of its own.

    Such a call does not return before its end, and handles Ctrl-C itself where it can: in a thread
    it cannot. The first Ctrl-C asks the workers to stop at their next step, the second stops
    waiting for them.
    """

    def __init__(self, name: str, work: Callable[[str], T], mailbox: Any, remedy: str) -> None:
        """Prepare the call.

        Args:
            name: of the thread, and of a temporary folder.
            work: the call; it is given the folder, and returns the result.
            mailbox: the actor that the workers report to.
            remedy: what the user can do after an error of the cluster.
        """
        self._name = name
        self._work = work
        self._mailbox = mailbox
        self._remedy = remedy
        self.is_stopping = False
        """Whether the workers were asked to stop."""
        self.gives_up = False
        """Whether their end is not waited for."""
        # Not the thread's own `is_alive`: before Python 3.13, an interrupt while joining a thread
        # makes it look dead.
        self._has_ended = Event()
        self._error: BaseException | None = None
        self._result: T | None = None

    def follow(self, lock: WriteLock, on_mail: Callable[[Mail], None]) -> T | None:
        """Run the work to its end.

        Args:
            lock: of the output.
            on_mail: called several times per second with what the workers sent.

        Returns:
            The result; None if a second Ctrl-C ended the wait for it.

        Raises:
            RaycapError: the work failed.
            RunConflict: another writer has taken over the output.
        """
        thread = Thread(target=self._run, daemon=True, name=f"raycap-{self._name}")
        with warnings.catch_warnings():
            # Ray warns about its own use of its own deprecated settings.
            warnings.filterwarnings("ignore", module=r"ray\.")
            warnings.filterwarnings("ignore", r"`use_\w+` is deprecated", DeprecationWarning)
            thread.start()
            try:
                self._watch(lock, on_mail)
                self._collect(on_mail)
            except BaseException:
                self.is_stopping = self.gives_up = True
                raise
            finally:
                self._mailbox.stop.remote()  # to workers that were left running
        if self.gives_up:
            return None
        if self._error is not None:
            raise explain(self._error, self._remedy) from self._error
        return self._result

    def _watch(self, lock: WriteLock, on_mail: Callable[[Mail], None]) -> None:
        while not self._has_ended.is_set() and not self.gives_up:
            try:
                self._has_ended.wait(_LOOK_EVERY_S)
                lock.check()
                self._collect(on_mail)
            except KeyboardInterrupt:
                self._note_interrupt()

    def _note_interrupt(self) -> None:
        if self.is_stopping:
            self.gives_up = True
            return
        logger.warning("stopping at the next step; interrupt again to stop at once")
        self.is_stopping = True
        self._mailbox.stop.remote()

    def _collect(self, on_mail: Callable[[Mail], None]) -> None:
        try:
            mail: Mail = ray.get(self._mailbox.collect.remote())
        except RayError as error:
            raise explain(error, self._remedy) from error
        on_mail(mail)

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix=f"raycap-{self._name}-") as folder:
                self._result = self._work(folder)
        except BaseException as error:  # noqa: BLE001  raised again in the driver's own thread
            self._error = error  # even SystemExit: Ray raises it if its cluster ends
        finally:
            self._has_ended.set()
