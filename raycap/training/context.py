"""What a worker's loop works with."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from raycap.config import TrainConfig
from raycap.storage.base import Store
from raycap.training.data.plan import Plan
from raycap.training.learner import Learner
from raycap.training.status import TrainingProgress
from raycap.training.workers import Workers


@runtime_checkable
class Reporter(Protocol):
    """Where the first worker tells how it gets on."""

    @property
    def wants_stop(self) -> bool:
        """Whether the run is to stop at the next step."""

    def tell(self, progress: TrainingProgress) -> None:
        """Pass progress on; some of it may be left out."""

    def note(self, message: str) -> None:
        """Pass on an event."""

    def warn(self, message: str) -> None:
        """Pass on what a person should act on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A run, as one of its workers sees it."""

    config: TrainConfig
    plan: Plan
    store: Store
    """The output."""
    workers: Workers
    learner: Learner
    reporter: Reporter
    origin: dict[str, Any]
    """What a saved model tells of where it comes from."""
