"""Charts of a search: its learning curves, what matters, and the map of two parameters.

The cells of a search's heat map: two parameters, and the mean value of each pair.

All parameters of a search at once: parallel coordinates, and a slice for each parameter.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from raycap.reporting.axes import BOTTOM, WIDTH, Plot, new_axes, write
from raycap.reporting.blocks import sentence
from raycap.reporting.curves import Chart, Curve, epoch_axes
from raycap.reporting.numbers import percent
from raycap.reporting.search_values import (
    MIN_TRIALS,
    Importance,
    Scale,
    Value,
    brief,
    drawn_text,
    is_number,
    metric_rule,
    number_scale,
    ordered_parameters,
    parameter_scale,
    said,
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


MAX_CURVES = 100
"""More could not be told apart."""

_CURVES_HEIGHT = 300  # all heights in points
_BAR_ROW = 40
_CELL_ROW = 40
_MARGINS = 69  # of a plot, below and above
_MAX_CHARS = 40  # of a parameter's name
_CELLS_LEFT = 112
_LINE = 15  # of text


def learning_chart(search: Search, anchor: str) -> Chart | None:
    """Draw the metric over the epochs of each trial; None before any epoch is over."""
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
        f"{sentence(metric_label(search.metric))} over the epochs of {len(shown)} trials, of which "
        f"{num_stopped} were stopped early."
    )
    if best:
        description += f" The best, {best.name}, came to {show(search, best.value)}."
    svg = inline_svg(figure, f"{anchor}-curves-plot", "Learning curves", description)
    note = f"{sentence(metric_label(search.metric))} on validation images: {metric_rule(search)}."
    note += " The ring is the best epoch." if best else ""
    note += " A cross ends a trial that was stopped early." if num_stopped else ""
    if len(begun) > MAX_CURVES:
        note += f" Of {len(begun)} trials, the {MAX_CURVES} best are drawn."
    return Chart(
        name=f"{anchor}-curves-plot",
        title="Learning curves",
        plot=Plot(svg=svg),
        key=_curve_key(best, len(shown)),
        note=note,
    )


def importance_chart(found: Sequence[Importance], search: Search, anchor: str) -> Chart | None:
    """Draw what each parameter explains; None where too few trials ended."""
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
    told = ", ".join(f"{item.parameter} {percent(item.share)}" for item in found)
    name = f"{anchor}-importance-plot"
    description = f"Share of the variance that each parameter alone explains: {told}."
    svg = inline_svg(figure, name, "What matters", description)
    return Chart(
        name=name,
        title="What matters",
        plot=Plot(svg=svg),
        note=f"How much of the variance of the {strength_label(search)} between the "
        f"{len(search.ended)} trials that ended each parameter alone explains (one-way eta "
        "squared; more than 5 different numbers are put into 4 groups, by quartiles). It needs at "
        f"least {MIN_TRIALS} trials; few trials in many groups explain much by chance. Trials "
        "that were stopped count with the value that they had reached.",
    )


def heat_chart(search: Search, anchor: str) -> Chart | None:
    """Draw the mean value for each pair of two parameters; None where there are not two."""
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
        note=f"Mean {strength_label(search)} of the trials of each cell, in their best epochs: "
        f"{metric_rule(search)}, and stronger in colour. Upwards {cells.up}, to the right "
        f"{cells.across}. Empty cells were not tried.",
    )


def shade(value: float, least: float, most: float) -> str:
    """Choose the ink of a value: the better, the deeper."""
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
        ring = [value for epoch, value in zip(epochs, values, strict=True) if epoch == best.epoch]
        axes.plot(
            [best.epoch],
            ring[:1],
            linestyle="",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=ink,
            markeredgewidth=1.8,
            clip_on=False,
        )


def _curve_key(best: Trial | None, num_shown: int) -> tuple[Curve, ...]:
    if best is None:
        return ()
    others = Curve(label="other trials", ink="people", epochs=(), values=())
    key = (Curve(label=f"best: {best.name}", ink="line-1", epochs=(), values=()), others)
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
    told = [
        f"{cells.across} {column} and {cells.up} {row}: {_cell_text(search, mean)}"
        for row, line in zip(cells.rows, cells.means, strict=True)
        for column, mean in zip(cells.columns, line, strict=True)
        if mean is not None
    ]
    return f"Mean {strength_label(search)}: {'; '.join(told)}."


def _pair_title(cells: Cells) -> str:
    return f"{cells.across} and {cells.up}"


def _broken(name: str, num_columns: int) -> str:
    """Break a range in two lines, and shorten what would not fit its column."""
    lines = name.replace("\N{EN DASH}", "\N{EN DASH}\n").split("\n")
    most = max(5, 46 // num_columns)
    return "\n".join(drawn_text(line, most) for line in lines[:2])


MAX_PARAMETERS = 8
"""More axes would be too close to be read."""
MAX_LINES = 300

_FEW = 3  # parameters that fit a narrow plot
_WIDE, _TALL, _LETTER = 920, 330, 6.7  # in points
_HEAD = 1.07  # above an axis, where its name stands
_BARE = (0.0, 1.0)


def parallel_chart(search: Search, anchor: str) -> Chart | None:
    """Draw each trial as a line through its settings to its value; None where there is none."""
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
    # The better a line, the later it is drawn, over the others.
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
    told = f" The best is {best.name}, with {show(search, best.value)}." if best else ""
    description = f"{len(trials)} trials as lines through {len(scales) - 1} parameters.{told}"
    name = f"{anchor}-parallel-plot"
    svg = inline_svg(figure, name, "All parameters at once", description)
    return Chart(
        name=name, title="All parameters at once", plot=Plot(svg=svg), note=_parallel_note(search)
    )


def is_wide(search: Search) -> bool:
    """Whether the parallel coordinates need the whole width of the page."""
    return len(search.parameters) > _FEW


def _drawn(search: Search) -> list[str]:
    """Choose the parameters that get an axis, in the order of the space."""
    if len(search.parameters) <= MAX_PARAMETERS:
        return list(search.parameters)
    kept = set((ordered_parameters(search) or list(search.parameters))[:MAX_PARAMETERS])
    return [name for name in search.parameters if name in kept]


def _parallel_note(search: Search) -> str:
    note = (
        f"A line is a trial: the stronger its colour, the better ({metric_rule(search)}), "
        "and the thick line is the best one."
    )
    if len(search.parameters) > MAX_PARAMETERS:
        note += (
            f" Of {len(search.parameters)} parameters, those {MAX_PARAMETERS} are drawn that "
            "explain most."
        )
    if len(search.measured) > MAX_LINES:
        note += f" Of {len(search.measured)} trials, the {MAX_LINES} best are drawn."
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
