"""Values of a search: comparing and formatting them, their axes, and what parameters explain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from raycap.reporting.charts import drawn_text, short
from raycap.reporting.numbers import NONE, decimal, signed
from raycap.results.labels import LENGTH_GAP, LOSS, metric_label
from raycap.results.search import Params, Search, Trial

Value = float | int | str | bool | list[Any] | dict[str, Any] | None
"""Value of a setting in one trial; rarely a list or a mapping."""

MIN_TRIALS = 4
"""Fewer have no information on importance."""
MAX_DISTINCT = 5
"""A parameter with more distinct numbers is divided into NUM_GROUPS groups."""
NUM_GROUPS = 4

_LOG = "loguniform"
_RATE = "lr"
_MIN_SPAN = 10  # ratio of learning rates from which their axis is logarithmic
_MAX_SHOWN = 6  # values up to which each is labelled on the axis
_CLOSE = 0.09  # of the axis: closer labels would overlap

Tick = tuple[float, str]
"""A position on an axis, 0 to 1, and its label."""


def metric_rule(search: Search) -> str:
    """Describe which value of the metric is best."""
    if search.metric == LENGTH_GAP:
        return "nearest to 0 is best"
    return "lower is better" if search.metric == LOSS else "higher is better"


def strength(search: Search, value: float) -> float:
    """Return what values are averaged by: for the length gap, its size whatever the sign."""
    return abs(value) if search.metric == LENGTH_GAP else value


def strength_label(search: Search) -> str:
    """Return the label of `strength`."""
    label = metric_label(search.metric)
    return f"size of the {label}" if search.metric == LENGTH_GAP else label


def show(search: Search, value: float | None) -> str:
    """Format a value of the metric."""
    return signed(value, 2) if search.metric == LENGTH_GAP else decimal(value)


def values_of(trials: Sequence[Trial]) -> list[float]:
    """Return the values of the trials that have one."""
    return [trial.value for trial in trials if trial.value is not None]


def short_name(parameter: str) -> str:
    """Return the name of a parameter without its section: `train.lr` as `lr`."""
    return parameter.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Importance of one parameter: the variance that it explains alone."""

    parameter: str
    share: float
    """Of the variance of the value between trials, 0 to 1."""
    num_groups: int
    """Groups of trials with different values of the parameter."""


def importances(search: Search) -> tuple[Importance, ...]:
    """Sort the parameters by importance; empty if too few trials have ended."""
    trials = search.ended
    if len(trials) < MIN_TRIALS:
        return ()
    values = [strength(search, value) for value in values_of(trials)]
    found = []
    for parameter in search.parameters:
        groups = group([trial.params.get(parameter) for trial in trials])
        share = explained(groups, values)
        found.append(Importance(parameter=parameter, share=share, num_groups=len(set(groups))))
    return tuple(sorted(found, key=lambda item: -item.share))


def ordered_parameters(search: Search) -> list[str]:
    """Return the parameters that differ between trials, the most important first."""
    ranked = [item.parameter for item in importances(search)] or list(search.parameters)
    tried = {name: {str(trial.params.get(name)) for trial in search.measured} for name in ranked}
    return [name for name in ranked if len(tried[name]) > 1]


def explained(groups: Sequence[int], values: Sequence[float]) -> float:
    """Return the share of the variance that is between groups: eta squared, one-way.

    Args:
        groups: the group of each value.
        values: finite numbers.

    Returns:
        0 to 1; 0 if all values are equal.
    """
    of, all_values = np.asarray(groups), np.asarray(values, np.float64)
    mean = all_values.mean()
    total = float(((all_values - mean) ** 2).sum())
    # Equal values may differ from their mean by a rounding error.
    if total <= len(all_values) * (1e-12 * max(1.0, abs(float(mean)))) ** 2:
        return 0.0
    parts = [all_values[of == name] for name in np.unique(of)]
    between = sum(len(part) * float(part.mean() - mean) ** 2 for part in parts)
    return min(1.0, between / total)


def group(values: Sequence[Value]) -> list[int]:
    """Assign a group to each value: equal values share one, or many numbers form quartiles."""
    numbers = {float(value) for value in values if is_number(value)}
    if len(numbers) <= MAX_DISTINCT:
        names = [_name(value) for value in values]
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        return [order[name] for name in names]
    present = [float(value) for value in values if is_number(value)]
    edges = np.quantile(present, [step / NUM_GROUPS for step in range(1, NUM_GROUPS)])
    # Values that are not numbers, such as None for "automatic", form a separate group.
    return [
        int(np.searchsorted(edges, float(value))) if is_number(value) else NUM_GROUPS
        for value in values
    ]


def is_number(value: Value) -> TypeGuard[int | float]:
    """Return whether a value is a finite number, and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _name(value: Value) -> tuple[str, str]:
    """Return a key of a value: the same for 1 and 1.0, different for 1 and true."""
    return ("number", repr(float(value))) if is_number(value) else ("", repr(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis on which values have positions from 0 to 1."""

    parameter: str
    choices: tuple[str, ...] = ()
    """Labels at evenly spaced positions; empty if values are numbers."""
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    ticks: tuple[Tick, ...] = ()

    def place(self, value: Value) -> float:
        """Return the position of a value; NaN if it has none."""
        if self.choices:
            name = setting_text(value)
            return _spread(self.choices)[name] if name in self.choices else math.nan
        if not is_number(value) or (self.is_log and value <= 0):
            return math.nan
        return self._at(float(value))

    def _at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high <= low else (value - low) / (high - low)


def parameter_scale(search: Search, parameter: str) -> Scale:
    """Choose the axis of a parameter by its search space and the values tried."""
    drawn = search.space.get(parameter, {})
    offered = [value for values in drawn.values() for value in values]
    tried = [trial.params[parameter] for trial in search.measured if parameter in trial.params]
    values = [*offered, *tried]
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers or len(numbers) < len(values):
        return _of_choices(parameter, values)
    is_rate = short_name(parameter) == _RATE
    spans = min(numbers) > 0 and (_LOG in drawn or max(numbers) >= _MIN_SPAN * min(numbers))
    return number_scale(parameter, numbers, is_log=spans and (is_rate or _LOG in drawn))


def number_scale(parameter: str, numbers: Sequence[float], *, is_log: bool = False) -> Scale:
    """Make an axis of numbers.

    Args:
        parameter: name of the parameter or metric.
        numbers: at least one; finite, and above 0 on a logarithmic axis.
        is_log: whether the axis is logarithmic.
    """
    bare = Scale(parameter=parameter, low=min(numbers), high=max(numbers), is_log=is_log)
    ticks = [(bare.place(value), brief(value)) for value in _named(bare, numbers)]
    return Scale(
        parameter=parameter, low=bare.low, high=bare.high, is_log=is_log, ticks=_apart(ticks)
    )


def setting_text(value: Value) -> str:
    """Format the value of a setting."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return brief(float(value)) if is_number(value) else str(value)


def brief(value: float, digits: int = 4) -> str:
    """Format a number with a maximum number of digits, unless it is an integer."""
    is_whole = value == int(value) and abs(value) < 1e6
    return short(value) if is_whole else short(float(f"{value:.{digits}g}"))


def shown_params(params: Params, parameters: Sequence[str]) -> tuple[str, ...]:
    """Format a trial's settings, with a dash for each that it does not have."""
    return tuple(setting_text(params[name]) if name in params else NONE for name in parameters)


def _of_choices(parameter: str, values: Sequence[Value]) -> Scale:
    choices = tuple(dict.fromkeys(setting_text(value) for value in values)) or ("none",)
    places = _spread(choices)
    ticks = [(places[name], drawn_text(name)) for name in choices]
    return Scale(parameter=parameter, choices=choices, ticks=_apart(ticks))


def _spread(choices: Sequence[str]) -> dict[str, float]:
    if len(choices) == 1:
        return {choices[0]: 0.5}
    return {name: number / (len(choices) - 1) for number, name in enumerate(choices)}


def _named(scale: Scale, numbers: Sequence[float]) -> list[float]:
    """Choose the numbers of an axis to label: all if there are few."""
    distinct = sorted(set(numbers))
    if len(distinct) <= _MAX_SHOWN:
        return distinct
    locator = LogLocator(subs=(1.0, 3.0)) if scale.is_log else MaxNLocator(4)
    round_ones = [float(value) for value in locator.tick_values(scale.low, scale.high)]
    inside = [value for value in round_ones if scale.low <= value <= scale.high]
    return inside if len(inside) > 1 else [scale.low, scale.high]


def _apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Leave out labels that would overlap the previous one."""
    kept = list[Tick]()
    for place, name in sorted(ticks):
        if not kept or place - kept[-1][0] >= _CLOSE:
            kept.append((place, name))
    return tuple(kept)
