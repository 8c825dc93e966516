"""A mailbox: how workers report to the driver, and how the driver asks them to stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

_UPDATE_EVERY_S = 0.5
_ASK_EVERY_S = 1.0
_FLUSH_WAIT_S = 10.0
_STOP_WAIT_S = 300.0
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line for the driver's log."""

    level: int
    """As in `logging`."""
    text: str


@dataclass(slots=True, kw_only=True)
class Mail:
    """What has arrived since the last collection."""

    items: list[Any] = field(default_factory=list)
    """Everything that was posted, in order of arrival."""
    updates: dict[str, Any] = field(default_factory=dict)
    """The newest update of each sender, unless it has posted something since."""


class Mailbox:
    """Mail of workers, and whether they are to stop; an actor. Workers use a `Sender`."""

    def __init__(self) -> None:
        self._mail = Mail()
        self._wants_stop = False
        self._running: set[str] = set()

    def post(self, sender: str, item: Any) -> bool:
        """Keep an item until it is collected; return whether the worker is to stop."""
        self._mail.updates.pop(sender, None)
        self._mail.items.append(item)
        return self._wants_stop

    def update(self, sender: str, value: Any) -> bool:
        """Replace the sender's last update; return whether the worker is to stop."""
        self._mail.updates[sender] = value
        return self._wants_stop

    def collect(self) -> Mail:
        """Return what is new."""
        mail, self._mail = self._mail, Mail()
        return mail

    def begin(self, sender: str) -> bool:
        """Note that a worker runs; return whether it is to stop at once."""
        self._running.add(sender)
        return self._wants_stop

    def end(self, sender: str) -> None:
        """Note that a worker has ended."""
        self._running.discard(sender)

    def num_running(self) -> int:
        """Return how many workers run."""
        return len(self._running)

    def stop(self) -> None:
        """Ask all workers to stop at their next step."""
        self._wants_stop = True

    def wants_stop(self) -> bool:
        """Return whether workers are to stop."""
        return self._wants_stop


class Sender:
    """A worker's side of a mailbox; sending does not wait for the mailbox."""

    def __init__(self, mailbox: Any, name: str) -> None:
        """Open a mailbox.

        Args:
            mailbox: the actor.
            name: whose updates these are.
        """
        self._mailbox = mailbox
        self._name = name
        self._answer: Any = None
        self._next_update = 0.0
        self._next_question = 0.0
        self._wants_stop = False
        self._was_interrupted = False

    @property
    def wants_stop(self) -> bool:
        """Whether the worker is to stop, by the last answer that has arrived."""
        self._has_answered()
        return self._wants_stop

    def update(self, value: Any) -> None:
        """Send the newest state, at most every half second."""
        now = time.monotonic()
        if now >= self._next_update and self._has_answered():
            self._next_update = now + _UPDATE_EVERY_S
            self._answer = self._mailbox.update.remote(self._name, value)

    def post(self, item: Any) -> None:
        """Send an item that must not be lost."""
        self._answer = self._mailbox.post.remote(self._name, item)

    def flush(self) -> None:
        """Wait until everything sent has arrived."""
        if self._answer is not None:
            ray.wait([self._answer], timeout=_FLUSH_WAIT_S)

    def stop(self) -> None:
        """Make the next `check_stop` raise, without asking the mailbox."""
        self._wants_stop = True

    def check_stop(self) -> None:
        """Raise KeyboardInterrupt, once, if the worker is to stop; ask at most once per second.

        An interrupt stops every command cleanly, whether a person or the driver sends it.
        """
        if self._was_interrupted:
            return
        now = time.monotonic()
        if not self._wants_stop and now >= self._next_question:
            self._next_question = now + _ASK_EVERY_S
            if ray.get(self._mailbox.wants_stop.remote()):
                self._wants_stop = True
        if self._wants_stop:
            self._was_interrupted = True
            raise KeyboardInterrupt

    def _has_answered(self) -> bool:
        if self._answer is None:
            return True
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            self._wants_stop = ray.get(self._answer) or self._wants_stop
        return bool(ready)


def stop_and_wait(mailbox: Any, gives_up: Callable[[], bool]) -> None:
    """Ask all workers to stop, and wait until those that began have ended: at most 5 minutes.

    Args:
        mailbox: the actor.
        gives_up: returns whether to stop waiting.
    """
    ray.get(mailbox.stop.remote())
    deadline = time.monotonic() + _STOP_WAIT_S
    while not gives_up() and time.monotonic() < deadline:
        if not ray.get(mailbox.num_running.remote()):
            return
        time.sleep(_LOOK_EVERY_S)
