"""Result of a hyperparameter search: its trials, and which of them is best.

run.json                 created once: the fingerprint; a different search is refused
config.json              all settings of the last invocation, resolved
lock.json                held while a search writes
trials/NAME/             each trial's output: that of a `raycap train` like any other
trials/NAME/trial.json   the Trial below; written when the trial ends
tune.json                the Search below; rewritten after each trial
trials.parquet           one row per trial, its settings as columns; rewritten with it
best.yaml                the best trial's settings: `raycap train --config` takes them
model/                   the best trial's model: `raycap caption --model` runs it
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from raycap.results.status import ExperimentRecord, Status
from raycap.results.training import EpochRecord, Metric, rank
from raycap.runs.records import read_if_any
from raycap.storage.base import Store

SEARCH = "tune.json"

Params = dict[str, Any]
"""A trial's settings by name, such as `train.lr`."""

_ENDED = frozenset({Status.FINISHED, Status.STOPPED})
_REMEDY = "delete it, and run the same command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial: a training run with its own settings."""

    name: str
    params: Params
    """The settings that were searched."""
    status: Status
    """`finished`: all epochs ran, or `validation.patience` ended it; `stopped`: the search stopped
    it because others were better."""
    reason: str = ""
    """Why it failed."""
    best_epoch: int | None = None
    """Counted from 1."""
    value: float | None = None
    """The metric in the best epoch."""
    history: list[EpochRecord] = field(default_factory=list)
    images_per_s: float = 0.0
    """Of its training steps."""
    wall_s: float = 0.0
    """Of its training steps and validations."""
    output: str = ""

    @property
    def best(self) -> EpochRecord | None:
        """Record of the best epoch; None before the first epoch has ended."""
        return next((it for it in self.history if it.epoch == self.best_epoch), None)

    @property
    def is_measured(self) -> bool:
        """Whether it has a value to compare with others, if only a preliminary one."""
        has_value = self.value is not None and math.isfinite(self.value)
        return has_value and self.status is not Status.FAILED


@dataclass(frozen=True, kw_only=True, repr=False)
class Search(ExperimentRecord):
    """Result of a search, finished or not. In `tune.json`.

    `end` is `finished`, or `budget` if a limit ended it.
    """

    kind: str
    metric: Metric
    """What trials are compared by."""
    algorithm: str
    scheduler: str
    space: dict[str, dict[str, list[Any]]]
    """How each setting is drawn, and from what: `{"train.lr": {"loguniform": [1e-5, 1e-3]}}`."""
    num_planned: int
    """Number of trials if nothing ends the search earlier."""
    trials: list[Trial]
    """In the order in which they began."""

    @property
    def parts(self) -> list[Trial]:
        """The trials."""
        return self.trials

    def trial(self, name: str) -> Trial:
        """Return a trial by its name."""
        return next(trial for trial in self.trials if trial.name == name)

    @property
    def share(self) -> float:
        """Finished share of the planned trials, 0 to 1; a running trial counts by its epochs."""
        done = sum(self._share_of(trial) for trial in self.trials)
        return min(1.0, done / self.num_planned) if self.num_planned else 1.0

    def _share_of(self, trial: Trial) -> float:
        if trial.status is not Status.RUNNING:
            return 1.0
        planned = self.config.get("train", {}).get("num_epochs", 1)
        num_epochs = int(trial.params.get("train.num_epochs", planned))
        return min(1.0, len(trial.history) / max(1, num_epochs))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The settings that were searched: those of the space, then others that trials have."""
        tried = (name for trial in self.trials for name in trial.params)
        return tuple(dict.fromkeys([*self.space, *tried]))

    @cached_property
    def ranked(self) -> tuple[Trial, ...]:
        """All trials, best first; those without a value after them, failed ones last."""
        return tuple(by_value(self.trials, self.metric))

    @cached_property
    def measured(self) -> tuple[Trial, ...]:
        """The trials with a value, best first; without failed ones."""
        return tuple(trial for trial in self.ranked if trial.is_measured)

    @cached_property
    def ended(self) -> tuple[Trial, ...]:
        """The measured trials that finished or were stopped."""
        return tuple(trial for trial in self.measured if trial.status in _ENDED)

    @cached_property
    def best_trial(self) -> Trial | None:
        """The best trial so far; None before one has a value."""
        named = (trial for trial in self.measured if trial.name == self.best)
        return next(named, next(iter(self.measured), None))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """Progress of a search."""

    search: Search
    """All trials so far."""
    trial: Trial | None
    """The trial that has just changed; None if none has."""
    notes: tuple[str, ...] = ()
    """Warnings about that trial."""


OnSearchProgress = Callable[[SearchProgress], None]
"""Called when a trial begins, ends an epoch, or ends."""

_FORM = TypeAdapter(Search)


def pick_best(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """Return the best trial that did not fail; None if no trial has a value."""
    candidates = [
        trial for trial in trials if trial.value is not None and trial.status is not Status.FAILED
    ]
    return min(candidates, key=lambda trial: _rank(trial, metric), default=None)


def by_value(trials: Sequence[Trial], metric: Metric) -> list[Trial]:
    """Sort trials: best first, those without a value after them, failed ones last."""
    return sorted(trials, key=lambda it: (it.status is Status.FAILED, *_rank(it, metric)))


def _rank(trial: Trial, metric: Metric) -> tuple[float, float]:
    value = math.nan if trial.value is None else trial.value
    return rank(value, trial.best.validation_loss if trial.best else math.inf, metric)


def read_search(store: Store) -> Search | None:
    """Read `tune.json`; None if there is none.

    Raises:
        DatasetError: it is damaged.
    """
    return read_if_any(_FORM, store, SEARCH, _REMEDY)
