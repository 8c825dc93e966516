"""How much each parameter of a search matters: what its groups explain of the value's variance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from raycap.reporting.search_record import Search, Value, numbers_of

MIN_TRIALS = 4
"""Fewer tell nothing."""
MAX_DISTINCT = 5
"""Numbers that differ more often are put into groups."""
NUM_GROUPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What a parameter alone explains."""

    parameter: str
    share: float
    """Of the variance of the value between trials, 0 to 1."""
    num_groups: int
    """Of trials, that differ in this parameter."""


def importances(search: Search) -> tuple[Importance, ...]:
    """Order the parameters by what each alone explains; nothing where too few trials ended."""
    trials = search.ended
    if len(trials) < MIN_TRIALS:
        return ()
    values = [search.strength(value) for value in numbers_of(trials)]
    found = []
    for parameter in search.parameters:
        groups = group([trial.params.get(parameter) for trial in trials])
        share = explained(groups, values)
        found.append(Importance(parameter=parameter, share=share, num_groups=len(set(groups))))
    return tuple(sorted(found, key=lambda item: -item.share))


def ordered_parameters(search: Search) -> list[str]:
    """Name the parameters that differ between trials, those that matter most first."""
    ranked = [item.parameter for item in importances(search)] or list(search.parameters)
    tried = {name: {str(trial.params.get(name)) for trial in search.measured} for name in ranked}
    return [name for name in ranked if len(tried[name]) > 1]


def explained(groups: Sequence[int], values: Sequence[float]) -> float:
    """Give the share of the values' variance that lies between groups: eta squared, one-way.

    Args:
        groups: of each value.
        values: finite.

    Returns:
        0 to 1; 0 where all values are equal.
    """
    of, all_values = np.asarray(groups), np.asarray(values, np.float64)
    mean = all_values.mean()
    total = float(((all_values - mean) ** 2).sum())
    # Equal values may differ from their mean by rounding.
    if total <= len(all_values) * (1e-12 * max(1.0, abs(float(mean)))) ** 2:
        return 0.0
    parts = [all_values[of == name] for name in np.unique(of)]
    between = sum(len(part) * float(part.mean() - mean) ** 2 for part in parts)
    return min(1.0, between / total)


def group(values: Sequence[Value]) -> list[int]:
    """Number the groups of a parameter's values: equal ones, or quarters of many numbers."""
    numbers = {float(value) for value in values if is_number(value)}
    if len(numbers) <= MAX_DISTINCT:
        names = [_name(value) for value in values]
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        return [order[name] for name in names]
    present = [float(value) for value in values if is_number(value)]
    edges = np.quantile(present, [step / NUM_GROUPS for step in range(1, NUM_GROUPS)])
    # What is no number among numbers, such as None for "decide for me", is a group of its own.
    return [
        int(np.searchsorted(edges, float(value))) if is_number(value) else NUM_GROUPS
        for value in values
    ]


def is_number(value: Value) -> TypeGuard[int | float]:
    """Whether a value is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _name(value: Value) -> tuple[str, str]:
    """Tell values apart as people do: 1 and 1.0 are one, 1 and true are two."""
    return ("number", repr(float(value))) if is_number(value) else ("", repr(value))
