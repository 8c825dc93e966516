"""What a search came to, as values: its trials, how they are, and which is best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raycap.experiments.tuning.space import Params
from raycap.training.overfitting import Metric, badness
from raycap.training.state import EpochRecord


class Status(StrEnum):
    """How a trial is."""

    RUNNING = "running"
    """It has begun, and goes on or was interrupted."""
    FINISHED = "finished"
    """It ran all its epochs, or until `validation.patience` ended it."""
    STOPPED = "stopped"
    """The search stopped it, as it had fallen behind."""
    FAILED = "failed"
    """It ended by an error; `reason` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a trial came to."""

    name: str
    params: Params
    status: Status
    reason: str = ""
    """Why it failed."""
    best_epoch: int | None = None
    value: float | None = None
    """Of the metric, in the best epoch."""
    history: list[EpochRecord] = field(default_factory=list)
    images_per_s: float = 0.0
    """Of its training steps."""
    wall_s: float = 0.0
    """Of its steps and its validations."""
    output: str = ""

    @property
    def best(self) -> EpochRecord | None:
        """Its best epoch."""
        return None if self.best_epoch is None else self.history[self.best_epoch - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search came to."""

    output: str
    dataset: str
    kind: str
    metric: str
    """What the trials are compared by."""
    algorithm: str
    scheduler: str
    space: dict[str, dict[str, list[Any]]]
    num_planned: int
    """Trials, if nothing ends the search before."""
    best: str | None
    """The best trial's name; None where none has come to an epoch."""
    trials: list[Trial]
    """In the order in which they began."""
    end: str = ""
    """`finished`, or `budget` where a limit ended it; empty while it goes on."""
    wall_s: float = 0.0
    """Seconds of the last invocation."""
    started_at: str = ""
    finished_at: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def trial(self, name: str) -> Trial:
        """Find a trial by its name."""
        return next(trial for trial in self.trials if trial.name == name)

    def count(self, status: Status) -> int:
        """Count the trials of a status."""
        return sum(trial.status == status for trial in self.trials)


def pick_best(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """Find the best of the trials, failed ones aside."""
    candidates = [
        trial for trial in trials if trial.value is not None and trial.status is not Status.FAILED
    ]
    return min(candidates, key=lambda trial: badness(trial.value or 0.0, metric), default=None)


def by_value(trials: Sequence[Trial], metric: Metric) -> list[Trial]:
    """Sort trials, the best first, those without a value last."""

    def key(trial: Trial) -> tuple[bool, float]:
        is_worthless = trial.value is None or trial.status is Status.FAILED
        return is_worthless, 0.0 if trial.value is None else badness(trial.value, metric)

    return sorted(trials, key=key)
