"""Charts of a search: its learning curves, what matters, and the map of two parameters."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from raycap.report.axes import BOTTOM, Plot, new_axes, write
from raycap.report.curves import Chart, Curve, epoch_axes
from raycap.report.numbers import percent
from raycap.report.search_cells import Cells, heat_cells
from raycap.report.search_importance import MIN_TRIALS, Importance
from raycap.report.search_record import Search, SearchTrial, sentence
from raycap.report.search_scale import drawn_text
from raycap.report.svg import INKS, NUM_SHADES, inline_svg

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
    num_stopped = sum(trial.status == "stopped" for trial in shown)
    description = (
        f"{sentence(search.metric_label)} over the epochs of {len(shown)} trials, of which "
        f"{num_stopped} were stopped early."
    )
    if best:
        description += f" The best, {best.name}, came to {search.show(best.value)}."
    svg = inline_svg(figure, f"{anchor}-curves-plot", "Learning curves", description)
    note = f"{sentence(search.metric_label)} on validation images: {search.metric_rule}."
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
        note=f"How much of the variance of the {search.strength_label} between the "
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
        note=f"Mean {search.strength_label} of the trials of each cell, in their best epochs: "
        f"{search.metric_rule}, and stronger in colour. Upwards {cells.up}, to the right "
        f"{cells.across}. Empty cells were not tried.",
    )


def shade(badness: float, least: float, most: float) -> str:
    """Choose the ink of a value: the better, the deeper."""
    if most <= least:
        return f"shade-{NUM_SHADES - 1}"
    goodness = (most - badness) / (most - least)
    return f"shade-{min(NUM_SHADES - 1, int(goodness * NUM_SHADES))}"


def _draw_curve(axes: Axes, search: Search, trial: SearchTrial, *, is_best: bool) -> None:
    epochs = [record.epoch for record in trial.history]
    found = trial.values(search.metric)
    values = [value if math.isfinite(value) else math.nan for value in found]
    ink = INKS["line-1" if is_best else "people"]
    axes.plot(epochs, values, color=ink, linewidth=2.4 if is_best else 1.4)
    axes.lines[-1].set(alpha=None if is_best else 0.6, zorder=3 if is_best else 2)
    if len(epochs) == 1:
        axes.plot(epochs, values, linestyle="", marker="o", markersize=4, color=ink)
    if trial.status == "stopped":
        axes.plot(epochs[-1:], values[-1:], linestyle="", marker="x", markersize=8, color=ink)
        axes.lines[-1].set_markeredgewidth(2)
    best = trial.best(search.metric)
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


def _curve_key(best: SearchTrial | None, num_shown: int) -> tuple[Curve, ...]:
    if best is None:
        return ()
    others = Curve(label="other trials", ink="people", epochs=(), values=())
    key = (Curve(label=f"best: {best.name}", ink="line-1", epochs=(), values=()), others)
    return key if num_shown > 1 else key[:1]


def _draw_cells(axes: Axes, cells: Cells, search: Search) -> None:
    found = [mean for line in cells.means for mean in line if mean is not None]
    bad = [search.badness(mean) for mean in found]
    for row, line in enumerate(cells.means):
        for column, mean in enumerate(line):
            is_empty = mean is None
            ink = "grid" if mean is None else shade(search.badness(mean), min(bad), max(bad))
            cell = Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, linewidth=0)
            cell.set(facecolor=INKS[ink], alpha=0.35 if is_empty else None)
            axes.add_patch(cell)
            if mean is not None:
                middle, text = (column + 0.5, row + 0.5), _cell_text(search, mean)
                write(axes, middle, text, ink="ink", ha="center", va="center")


def _cell_text(search: Search, mean: float) -> str:
    return search.show(mean).lstrip("+")


def _describe(cells: Cells, search: Search) -> str:
    told = [
        f"{cells.across} {column} and {cells.up} {row}: {_cell_text(search, mean)}"
        for row, line in zip(cells.rows, cells.means, strict=True)
        for column, mean in zip(cells.columns, line, strict=True)
        if mean is not None
    ]
    return f"Mean {search.strength_label}: {'; '.join(told)}."


def _pair_title(cells: Cells) -> str:
    return f"{cells.across} and {cells.up}"


def _broken(name: str, num_columns: int) -> str:
    """Break a range in two lines, and shorten what would not fit its column."""
    lines = name.replace("\N{EN DASH}", "\N{EN DASH}\n").split("\n")
    most = max(5, 46 // num_columns)
    return "\n".join(drawn_text(line, most) for line in lines[:2])
