"""Charts of a search: learning curves, importance, heat map, parallel coordinates."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from raycap.reporting.blocks import sentence
from raycap.reporting.charts import (
    BOTTOM,
    WIDTH,
    Chart,
    Curve,
    Plot,
    draw_ring,
    drawn_text,
    epoch_axes,
    new_axes,
    write,
)
from raycap.reporting.numbers import percent
from raycap.reporting.search_values import (
    MIN_TRIALS,
    Importance,
    Scale,
    Value,
    brief,
    is_number,
    metric_rule,
    number_scale,
    ordered_parameters,
    parameter_scale,
    setting_text,
    show,
    strength,
    strength_label,
    values_of,
)
from raycap.reporting.svg import INKS, NUM_SHADES, inline_svg
from raycap.results.labels import metric_label
from raycap.results.search import Search, Trial
from raycap.results.status import Status
from raycap.results.training import badness

MAX_DISTINCT = 8
"""Values of a parameter up to which each has its own row or column."""
NUM_BINS = 5
"""Rows or columns if there are more numbers."""
OTHER = "other"

_PREFERRED = ("train.lr", "train.batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Mean values for pairs of two parameters."""

    across: str
    """Parameter of the columns."""
    up: str
    """Parameter of the rows."""
    columns: tuple[str, ...]
    """Labels, from left to right."""
    rows: tuple[str, ...]
    """Labels, from bottom to top."""
    means: tuple[tuple[float | None, ...], ...]
    """Row by row; None for cells without a trial."""
    counts: tuple[tuple[int, ...], ...]
    """Number of trials in each cell."""


def heat_cells(search: Search) -> Cells | None:
    """Sort the trials with a value into cells by two parameters.

    These are the learning rate and the batch size or, unless both were searched, the two most
    important ones. None if there are not two, or if no trial has a value.
    """
    pair = _pair(search)
    if pair is None or not search.measured:
        return None
    across, up = pair
    columns, at_column = divide([trial.params.get(across) for trial in search.measured])
    rows, at_row = divide([trial.params.get(up) for trial in search.measured])
    found: dict[tuple[int, int], list[float]] = {}
    values = [strength(search, value) for value in values_of(search.measured)]
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
        Labels of the rows or columns in order, and the index of the one for each value.
    """
    numbers = sorted({float(value) for value in values if is_number(value)})
    if len(numbers) > MAX_DISTINCT:
        return _binned(values)
    kinds = Counter(setting_text(value) for value in values if not is_number(value))
    room = max(1, MAX_DISTINCT - len(numbers))
    is_crowded = len(kinds) > room
    kept = [name for name, _ in kinds.most_common(max(1, room - is_crowded))]
    names = [*map(brief, numbers), *sorted(kept), *([OTHER] if is_crowded else [])]
    # Two values may have the same label; then they share a row or column.
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return tuple(order), [order.get(setting_text(value), len(order) - 1) for value in values]


def _pair(search: Search) -> tuple[str, str] | None:
    first, second = _PREFERRED
    if first in search.space and second in search.space:
        return first, second
    most = ordered_parameters(search)[:2]
    return (most[0], most[1]) if len(most) == 2 else None


def _binned(values: Sequence[Value]) -> tuple[tuple[str, ...], list[int]]:
    """Sort many numbers into bins with equally many trials; other values into one more bin."""
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


MAX_CURVES = 100
"""More could not be distinguished."""

_CURVES_HEIGHT = 300  # all heights in points
_BAR_ROW = 40
_CELL_ROW = 40
_MARGINS = 69  # of a plot, below and above
_MAX_CHARS = 40  # of the name of a parameter
_CELLS_LEFT = 112
_LINE = 15  # of text


def learning_chart(search: Search, anchor: str) -> Chart | None:
    """Draw the metric over the epochs of each trial; None before the end of any epoch."""
    begun = [trial for trial in search.ranked if trial.history]
    if not begun:
        return None
    shown, best = begun[:MAX_CURVES], search.best_trial
    last = max(record.epoch for trial in shown for record in trial.history)
    figure, axes = epoch_axes(last, _CURVES_HEIGHT)
    for trial in reversed(shown):
        _draw_curve(axes, search, trial, is_best=trial is best)
    num_stopped = sum(trial.status is Status.STOPPED for trial in shown)
    description = (
        f"{sentence(metric_label(search.metric))} of {len(shown)} trials by epoch; {num_stopped} "
        "of them were stopped early."
    )
    if best:
        description += f" The best, {best.name}, reached {show(search, best.value)}."
    svg = inline_svg(figure, f"{anchor}-curves-plot", "Learning curves", description)
    note = f"{sentence(metric_label(search.metric))} on validation images: {metric_rule(search)}."
    note += " The ring marks the best epoch." if best else ""
    note += " A cross marks the end of a trial that was stopped early." if num_stopped else ""
    if len(begun) > MAX_CURVES:
        note += f" The chart shows the {MAX_CURVES} best of {len(begun)} trials."
    return Chart(
        name=f"{anchor}-curves-plot",
        title="Learning curves",
        plot=Plot(svg=svg),
        key=_curve_key(best, len(shown)),
        note=note,
    )


def importance_chart(found: Sequence[Importance], search: Search, anchor: str) -> Chart | None:
    """Draw the importance of each parameter; None if too few trials have ended."""
    if not found:
        return None
    figure, axes = new_axes("share of the variance", _MARGINS + _BAR_ROW * len(found), left=12)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(found) - 0.35, -0.65)
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    for row, item in enumerate(found):
        axes.barh(row + 0.1, 1, 0.26, color=INKS["grid"])
        axes.barh(row + 0.1, item.share, 0.26, color=INKS["line-0"])
        write(axes, (0.0, row - 0.28), drawn_text(item.parameter, _MAX_CHARS), va="center")
        write(axes, (1.0, row - 0.28), percent(item.share), ha="right", va="center", weight="bold")
    shares = ", ".join(f"{item.parameter} {percent(item.share)}" for item in found)
    name = f"{anchor}-importance-plot"
    description = f"Share of the variance that each parameter alone explains: {shares}."
    svg = inline_svg(figure, name, "Importance of parameters", description)
    return Chart(
        name=name,
        title="Importance of parameters",
        plot=Plot(svg=svg),
        note=f"Share of the variance of the {strength_label(search)} that each parameter alone "
        f"explains, over {len(search.ended)} ended trials (one-way eta squared; more than 5 "
        f"distinct numbers are grouped by quartiles). It needs at least {MIN_TRIALS} trials; with "
        "few trials in many groups, high shares occur by chance. Stopped trials count with the "
        "value they had reached.",
    )


def heat_chart(search: Search, anchor: str) -> Chart | None:
    """Draw the mean value for each pair of two parameters; None if there are not two."""
    cells = heat_cells(search)
    if cells is None:
        return None
    names = [_broken(name, len(cells.columns)) for name in cells.columns]
    extra = _LINE * any("\n" in name for name in names)
    height = _MARGINS + extra + _CELL_ROW * len(cells.rows)
    label = drawn_text(cells.across, _MAX_CHARS)
    figure, axes = new_axes(label, height, left=_CELLS_LEFT, bottom=BOTTOM + extra)
    axes.grid(visible=False)
    axes.set_xlim(0, len(cells.columns))
    axes.set_ylim(0, len(cells.rows))
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([place + 0.5 for place in range(len(names))], names)
    axes.set_yticks([place + 0.5 for place in range(len(cells.rows))], map(drawn_text, cells.rows))
    for name_at in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        name_at.set_parse_math(False)
    axes.xaxis.label.set_parse_math(False)
    corner = (0.005, 1 - 10 / height)
    text = drawn_text(cells.up, _MAX_CHARS)
    write(axes, corner, text, va="center", transform=figure.transFigure)
    _draw_cells(axes, cells, search)
    name = f"{anchor}-map-plot"
    svg = inline_svg(figure, name, _pair_title(cells), _describe(cells, search))
    return Chart(
        name=name,
        title=_pair_title(cells),
        plot=Plot(svg=svg),
        note=f"Mean {strength_label(search)} of the trials in each cell, in their best epochs: "
        f"{metric_rule(search)}, and has the stronger colour. Vertical: {cells.up}. Horizontal: "
        f"{cells.across}. Empty cells were not tried.",
    )


def shade(value: float, least: float, most: float) -> str:
    """Choose the ink of a value: the better, the darker."""
    if most <= least:
        return f"shade-{NUM_SHADES - 1}"
    goodness = (most - value) / (most - least)
    return f"shade-{min(NUM_SHADES - 1, int(goodness * NUM_SHADES))}"


def _draw_curve(axes: Axes, search: Search, trial: Trial, *, is_best: bool) -> None:
    epochs = [record.epoch for record in trial.history]
    found = [record.value(search.metric) for record in trial.history]
    values = [value if math.isfinite(value) else math.nan for value in found]
    ink = INKS["line-1" if is_best else "people"]
    axes.plot(epochs, values, color=ink, linewidth=2.4 if is_best else 1.4)
    axes.lines[-1].set(alpha=None if is_best else 0.6, zorder=3 if is_best else 2)
    if len(epochs) == 1:
        axes.plot(epochs, values, linestyle="", marker="o", markersize=4, color=ink)
    if trial.status is Status.STOPPED:
        axes.plot(epochs[-1:], values[-1:], linestyle="", marker="x", markersize=8, color=ink)
        axes.lines[-1].set_markeredgewidth(2)
    best = trial.best
    if is_best and best:
        draw_ring(axes, float(best.epoch), best.value(search.metric), "line-1")


def _curve_key(best: Trial | None, num_shown: int) -> tuple[Curve, ...]:
    if best is None:
        return ()
    others = Curve(label="other trials", ink="people")
    key = (Curve(label=f"best: {best.name}", ink="line-1"), others)
    return key if num_shown > 1 else key[:1]


def _draw_cells(axes: Axes, cells: Cells, search: Search) -> None:
    found = [mean for line in cells.means for mean in line if mean is not None]
    bad = [badness(mean, search.metric) for mean in found]
    for row, line in enumerate(cells.means):
        for column, mean in enumerate(line):
            is_empty = mean is None
            ink = (
                "grid" if mean is None else shade(badness(mean, search.metric), min(bad), max(bad))
            )
            cell = Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, linewidth=0)
            cell.set(facecolor=INKS[ink], alpha=0.35 if is_empty else None)
            axes.add_patch(cell)
            if mean is not None:
                middle, text = (column + 0.5, row + 0.5), _cell_text(search, mean)
                write(axes, middle, text, ink="ink", ha="center", va="center")


def _cell_text(search: Search, mean: float) -> str:
    return show(search, mean).lstrip("+")


def _describe(cells: Cells, search: Search) -> str:
    values = [
        f"{cells.across} {column} and {cells.up} {row}: {_cell_text(search, mean)}"
        for row, line in zip(cells.rows, cells.means, strict=True)
        for column, mean in zip(cells.columns, line, strict=True)
        if mean is not None
    ]
    return f"Mean {strength_label(search)}: {'; '.join(values)}."


def _pair_title(cells: Cells) -> str:
    return f"{cells.across} and {cells.up}"


def _broken(name: str, num_columns: int) -> str:
    """Break a range into two lines, and shorten labels to the width of their column."""
    lines = name.replace("\N{EN DASH}", "\N{EN DASH}\n").split("\n")
    most = max(5, 46 // num_columns)
    return "\n".join(drawn_text(line, most) for line in lines[:2])


MAX_PARAMETERS = 8
"""More axes would be too narrow to read."""
MAX_LINES = 300

_FEW = 3  # parameters that fit into a narrow plot
_WIDE, _TALL, _LETTER = 920, 330, 6.7  # in points
_HEAD = 1.07  # vertical position of an axis label
_BARE = (0.0, 1.0)


def parallel_chart(search: Search, anchor: str) -> Chart | None:
    """Draw each trial as a line through its settings to its value; None without values."""
    trials = search.measured[:MAX_LINES]
    scales = [parameter_scale(search, name) for name in _drawn(search)]
    if not trials or not scales:
        return None
    scales.append(number_scale(metric_label(search.metric), values_of(trials)))
    width = _WIDE if is_wide(search) else WIDTH
    figure, axes = new_axes("", _TALL, width=width, left=5)
    axes.set_position((0.02, 0.04, 0.96, 0.8))
    axes.set_axis_off()
    axes.set_xlim(-0.5, len(scales) - 0.5)
    axes.set_ylim(-0.06, 1.04)
    bad = [badness(value, search.metric) for value in values_of(trials)]
    # Better lines are drawn later, on top of the others.
    for trial, its_badness in reversed(list(zip(trials, bad, strict=True))):
        is_best = trial is search.best_trial
        settings = [scale.place(trial.params.get(scale.parameter)) for scale in scales[:-1]]
        places = [*settings, scales[-1].place(trial.value)]
        ink = "line-1" if is_best else shade(its_badness, min(bad), max(bad))
        _draw_line(axes, places, ink, is_best=is_best)
    most = int(width / len(scales) / _LETTER)
    for number, scale in enumerate(scales):
        _draw_axis(axes, number, scale, most, is_value=number == len(scales) - 1)
    best = search.best_trial
    best_text = f" The best is {best.name}, with {show(search, best.value)}." if best else ""
    description = f"{len(trials)} trials as lines through {len(scales) - 1} parameters.{best_text}"
    name = f"{anchor}-parallel-plot"
    svg = inline_svg(figure, name, "All parameters at once", description)
    return Chart(
        name=name, title="All parameters at once", plot=Plot(svg=svg), note=_parallel_note(search)
    )


def is_wide(search: Search) -> bool:
    """Return whether the parallel coordinates need the full width of the page."""
    return len(search.parameters) > _FEW


def _drawn(search: Search) -> list[str]:
    """Choose the parameters that have an axis, in the order of the space."""
    if len(search.parameters) <= MAX_PARAMETERS:
        return list(search.parameters)
    kept = set((ordered_parameters(search) or list(search.parameters))[:MAX_PARAMETERS])
    return [name for name in search.parameters if name in kept]


def _parallel_note(search: Search) -> str:
    note = (
        f"Each line is a trial: the stronger its colour, the better ({metric_rule(search)}). The "
        "thick line is the best trial."
    )
    if len(search.parameters) > MAX_PARAMETERS:
        note += (
            f" The chart shows the {MAX_PARAMETERS} most important of "
            f"{len(search.parameters)} parameters."
        )
    if len(search.measured) > MAX_LINES:
        note += f" The chart shows the {MAX_LINES} best of {len(search.measured)} trials."
    return note


def _draw_line(axes: Axes, places: Sequence[float], ink: str, *, is_best: bool) -> None:
    (line,) = axes.plot(range(len(places)), places, color=INKS[ink])
    line.set(zorder=3 if is_best else 2, linewidth=3.2 if is_best else 1.5)
    line.set(solid_joinstyle="round", solid_capstyle="round")
    dots = [(at, place) for at, place in enumerate(places) if math.isfinite(place)]
    if is_best:
        axes.plot(*zip(*dots, strict=True), linestyle="", marker="o", markersize=7, color=INKS[ink])


def _draw_axis(axes: Axes, at: int, scale: Scale, most: int, *, is_value: bool) -> None:
    axes.plot([at, at], _BARE, color=INKS["text"], linewidth=1.2, zorder=1)
    section, _, last = scale.parameter.rpartition(".")
    lines = [scale.parameter] if is_value else [section, last]
    name = "\n".join(drawn_text(line, most) for line in lines)
    weight = "bold" if is_value else "normal"
    write(axes, (float(at), _HEAD), name, ha="center", weight=weight)
    for place, label in scale.ticks:
        axes.plot([at - 0.02, at + 0.02], [place, place], color=INKS["text"], linewidth=1.2)
        write(axes, (at + 0.05, place), label, va="center")
