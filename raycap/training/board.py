"""Where the first worker posts how it gets on, and the driver reads it."""

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from raycap.training.status import TrainingProgress

_POST_EVERY_S = 0.5


@dataclass(slots=True, kw_only=True)
class Posted:
    """What has been posted since the last look."""

    progress: TrainingProgress | None = None
    """The latest."""
    epochs: list[TrainingProgress] = field(default_factory=list)
    """The ends of epochs, all of them."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Board:
    """Holds what is posted; an actor."""

    def __init__(self) -> None:
        self._posted = Posted()
        self._wants_stop = False

    def post(self, progress: TrainingProgress) -> bool:
        """Take progress; answer whether the run is to stop."""
        self._posted.progress = progress
        if progress.epoch_record is not None:
            self._posted.epochs.append(progress)
        return self._wants_stop

    def note(self, message: str) -> bool:
        """Take an event; answer as `post` does."""
        self._posted.notes.append(message)
        return self._wants_stop

    def warn(self, message: str) -> bool:
        """Take a warning; answer as `post` does."""
        self._posted.warnings.append(message)
        return self._wants_stop

    def look(self) -> Posted:
        """Give what is new."""
        posted, self._posted = self._posted, Posted()
        return posted

    def stop(self) -> None:
        """Let the run stop at its next step."""
        self._wants_stop = True


class BoardReporter:
    """A worker's way to the board; see `Reporter`. Waits for nothing but the last words."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer: Any = None
        self._next = 0.0
        self._wants_stop = False

    @property
    def wants_stop(self) -> bool:
        """Whether the run is to stop, by the last answer that has arrived."""
        self._has_answered()
        return self._wants_stop

    def tell(self, progress: TrainingProgress) -> None:
        """Post progress, now and then, and hear whether to stop."""
        now = time.monotonic()
        is_due = now >= self._next and self._has_answered()
        if is_due or progress.epoch_record is not None:
            self._next = now + _POST_EVERY_S
            self._answer = self._board.post.remote(progress)

    def note(self, message: str) -> None:
        """Post an event."""
        self._answer = self._board.note.remote(message)

    def warn(self, message: str) -> None:
        """Post a warning."""
        self._answer = self._board.warn.remote(message)

    def flush(self) -> None:
        """Wait until all that was posted has arrived."""
        if self._answer is not None:
            ray.wait([self._answer], timeout=10)

    def _has_answered(self) -> bool:
        if self._answer is None:
            return True
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            self._wants_stop = ray.get(self._answer)
        return bool(ready)
