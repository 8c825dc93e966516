"""A hyperparameter search's output, read for the page: finished, still going, or stopped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import TypeAdapter

from raycap.reporting.blocks import last_name
from raycap.reporting.numbers import decimal, signed
from raycap.reporting.training_run import metric_label
from raycap.runs.records import read_as
from raycap.storage.base import Store
from raycap.training.overfitting import Metric, badness, best_epoch
from raycap.training.scores import LENGTH_GAP
from raycap.training.state import EpochRecord

SEARCH = "tune.json"  # written by `raycap tune` after each trial

Value = float | int | str | bool | list[Any] | dict[str, Any] | None
"""Of a setting, in one trial; hardly ever a list or a mapping."""

_LOSS: Metric = "loss"
_ENDED = frozenset({"finished", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTrial:
    """One trial: a training run with settings of its own."""

    name: str
    params: dict[str, Value]
    """The settings that were searched, such as `train.lr`."""
    status: Literal["finished", "stopped", "failed", "running"]
    """`stopped`: ended early, as others were better; `failed`: by an error."""
    reason: str = ""
    """Why it failed or was stopped."""
    best_epoch: int | None = None
    """Counted from 1."""
    value: float | None = None
    """The metric in the best epoch."""
    history: list[EpochRecord] = field(default_factory=list)
    wall_s: float = 0.0
    output: str = ""

    @property
    def has_value(self) -> bool:
        """Whether it came to a value that is a number."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def is_measured(self) -> bool:
        """Whether it has a value to compare with those of others: that so far, if it goes on."""
        return self.status != "failed" and self.has_value

    def values(self, metric: Metric) -> list[float]:
        """Give the metric epoch by epoch; what is missing is no number."""
        if metric == _LOSS:
            return [record.validation_loss for record in self.history]
        return [record.scores.get(metric, math.nan) for record in self.history]

    def best(self, metric: Metric) -> EpochRecord | None:
        """Find the record of the best epoch; None before the first is over."""
        epoch = self.best_epoch
        if epoch is None and self.history:
            epoch = self.history[best_epoch(self.values(metric), metric) - 1].epoch
        return next((record for record in self.history if record.epoch == epoch), None)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search's output tells."""

    output: str
    dataset: str
    kind: str
    metric: Metric
    """What trials are compared by."""
    algorithm: str
    scheduler: str = "none"
    space: dict[str, dict[str, list[Value]]]
    """For each setting how it is drawn, and from what: `{"uniform": [0, 0.5]}`."""
    num_planned: int | None = None
    """None where only time limits the search."""
    best: str | None = None
    """Name of the best trial."""
    trials: list[SearchTrial]
    end: str
    """Empty where the search is not over; `finished`, or `budget` where time or trials ran out."""
    wall_s: float = 0.0
    """Seconds of the last invocation."""
    started_at: str = ""
    finished_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def metric_label(self) -> str:
        """What trials are compared by, in words."""
        return metric_label(self.metric)

    @property
    def strength_label(self) -> str:
        """What `strength` gives, in words."""
        is_gap = self.metric == LENGTH_GAP
        return f"size of the {self.metric_label}" if is_gap else self.metric_label

    @property
    def metric_rule(self) -> str:
        """Which value is best, in words."""
        if self.metric == LENGTH_GAP:
            return "nearest to 0 is best"
        return "lower is better" if self.metric == _LOSS else "higher is better"

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The settings that were searched: those of the space, then others that trials have."""
        tried = (name for trial in self.trials for name in trial.params)
        return tuple(dict.fromkeys([*self.space, *tried]))

    @cached_property
    def ranked(self) -> tuple[SearchTrial, ...]:
        """All trials, the best first; those without a value after them, failed ones last."""
        return tuple(sorted(self.trials, key=self._rank))

    @cached_property
    def measured(self) -> tuple[SearchTrial, ...]:
        """The trials that have a value, the best first; without those that failed."""
        return tuple(trial for trial in self.ranked if trial.is_measured)

    @cached_property
    def ended(self) -> tuple[SearchTrial, ...]:
        """Those of them that are over, by themselves or stopped early."""
        return tuple(trial for trial in self.measured if trial.status in _ENDED)

    @cached_property
    def best_trial(self) -> SearchTrial | None:
        """The best trial so far; None before one has a value."""
        named = (trial for trial in self.measured if trial.name == self.best)
        return next(named, next(iter(self.measured), None))

    def count(self, status: str) -> int:
        """Count the trials of a status."""
        return sum(trial.status == status for trial in self.trials)

    def badness(self, value: float) -> float:
        """Say how bad a value is: the least is the best."""
        return badness(value, self.metric)

    def strength(self, value: float) -> float:
        """Give what values are averaged by: the gap counts by its size, whatever its sign."""
        return abs(value) if self.metric == LENGTH_GAP else value

    def show(self, value: float | None) -> str:
        """Write a value of the metric."""
        return signed(value, 2) if self.metric == LENGTH_GAP else decimal(value)

    def _rank(self, trial: SearchTrial) -> tuple[bool, bool, float]:
        value = trial.value if trial.has_value else None
        bad = 0.0 if value is None else self.badness(value)
        return trial.status == "failed", value is None, bad


_FORM = TypeAdapter(Search)


def read_search(store: Store) -> Search:
    """Read a search's output.

    Raises:
        DatasetError: its record is damaged.
        StorageError: the store refuses.
    """
    found: Search = read_as(_FORM, store, SEARCH, "restore it, or search again in a new output")
    return found


def numbers_of(trials: Sequence[SearchTrial]) -> list[float]:
    """Give the values of trials that have one."""
    return [trial.value for trial in trials if trial.value is not None]


def short_name(parameter: str) -> str:
    """Name a parameter without its section: `train.lr` as `lr`."""
    return last_name(parameter.replace(".", "/"))


def sentence(text: str) -> str:
    """Begin a sentence with it."""
    return f"{text[:1].upper()}{text[1:]}"
