"""The cells of a search's heat map: two parameters, and the mean value of each pair."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycap.report.search_importance import is_number, ordered_parameters
from raycap.report.search_record import Search, Value, numbers_of
from raycap.report.search_scale import brief, said

MAX_DISTINCT = 8
"""Values of a parameter that get a row or column each."""
NUM_BINS = 5
"""Rows or columns for more numbers than that."""
OTHER = "other"

_PREFERRED = ("train.lr", "train.batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table of mean values."""

    across: str
    """The parameter of the columns."""
    up: str
    """That of the rows."""
    columns: tuple[str, ...]
    """What they are called, from left to right."""
    rows: tuple[str, ...]
    """From the lowest up."""
    means: tuple[tuple[float | None, ...], ...]
    """Row by row; None where no trial was."""
    counts: tuple[tuple[int, ...], ...]
    """Trials of each cell."""


def heat_cells(search: Search) -> Cells | None:
    """Sort the trials that have a value into cells by two parameters.

    These are the learning rate and the batch size, or, where not both were searched, the two that
    matter most. None where there are not two, or no trial has a value.
    """
    pair = _pair(search)
    if pair is None or not search.measured:
        return None
    across, up = pair
    columns, at_column = divide([trial.params.get(across) for trial in search.measured])
    rows, at_row = divide([trial.params.get(up) for trial in search.measured])
    found: dict[tuple[int, int], list[float]] = {}
    values = map(search.strength, numbers_of(search.measured))
    for row, column, value in zip(at_row, at_column, values, strict=True):
        found.setdefault((row, column), []).append(value)
    places = [[(row, column) for column in range(len(columns))] for row in range(len(rows))]
    return Cells(
        across=across,
        up=up,
        columns=columns,
        rows=rows,
        means=tuple(tuple(_mean(found.get(at)) for at in line) for line in places),
        counts=tuple(tuple(len(found.get(at, ())) for at in line) for line in places),
    )


def divide(values: Sequence[Value]) -> tuple[tuple[str, ...], list[int]]:
    """Sort values into rows or columns.

    Returns:
        What these are called, in order, and for each value which one it is in.
    """
    numbers = sorted({float(value) for value in values if is_number(value)})
    if len(numbers) > MAX_DISTINCT:
        return _binned(values)
    kinds = Counter(said(value) for value in values if not is_number(value))
    room = max(1, MAX_DISTINCT - len(numbers))
    is_crowded = len(kinds) > room
    kept = [name for name, _ in kinds.most_common(max(1, room - is_crowded))]
    names = [*map(brief, numbers), *sorted(kept), *([OTHER] if is_crowded else [])]
    # Two numbers, or a number and a text, may be written alike; they share a place then.
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return tuple(order), [order.get(said(value), len(order) - 1) for value in values]


def _pair(search: Search) -> tuple[str, str] | None:
    first, second = _PREFERRED
    if first in search.space and second in search.space:
        return first, second
    most = ordered_parameters(search)[:2]
    return (most[0], most[1]) if len(most) == 2 else None


def _binned(values: Sequence[Value]) -> tuple[tuple[str, ...], list[int]]:
    """Sort many numbers into bins with as many trials each; what is no number into one more."""
    numbers = np.array([float(value) for value in values if is_number(value)])
    inner = np.unique(np.quantile(numbers, [step / NUM_BINS for step in range(1, NUM_BINS)]))
    bins = [int(np.searchsorted(inner, value)) for value in numbers]
    filled = sorted(set(bins))
    names = []
    for number in filled:
        inside = [value for value, at in zip(numbers, bins, strict=True) if at == number]
        low, high = (brief(float(value), 2) for value in (min(inside), max(inside)))
        names.append(low if low == high else f"{low}\N{EN DASH}{high}")
    has_others = len(numbers) < len(values)
    order = {number: place for place, number in enumerate(filled)}
    numbered = iter(bins)
    places = [order[next(numbered)] if is_number(value) else len(filled) for value in values]
    return (*names, *([OTHER] if has_others else [])), places


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None
