"""Values as dots on one axis, a row for each system: to be compared at a glance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from raycap.reporting.axes import FONT_SIZE, Plot, new_axes, write
from raycap.reporting.curves import Chart, short
from raycap.reporting.search_values import drawn_text
from raycap.reporting.svg import INKS, inline_svg

_ROW = 40  # all sizes in points
_MARGINS = 69  # of a plot, below and above
_MAX_CHARS = 28  # of a name; a value stands beside it
_NAME_UP, _DOT_DOWN = 0.2, 0.2  # of a row, from its middle
_ROOM = 1.06  # of an axis, beyond its last dot
_EDGE = 0.035  # of an axis: half a number, beyond its margin
_DASHES = (0, (4, 3))
_LATE = 0.75  # of an axis: a label that begins further right is written to the left


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A value, with an interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    is_hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DotRow:
    """What is known of one system; a line joins its dots."""

    label: str
    """For the drawing; may hold anything."""
    ink: str
    """A key of INKS."""
    dots: tuple[Dot, ...]
    told: str
    """The values, in our own words."""


def dot_chart(
    name: str,
    title: str,
    unit: str,
    rows: Sequence[DotRow],
    *,
    people: tuple[float, str] | None = None,
    note: str = "",
) -> Chart | None:
    """Draw rows of dots; None where there are none.

    Args:
        name: begins the ids of the drawing.
        title: of the chart.
        unit: what the axis counts.
        rows: the first one on top.
        people: where references are, and what to write there; a line joins it with each row.
        note: a remark to stand below.
    """
    if not rows:
        return None
    figure, axes = new_axes(unit, _MARGINS + _ROW * len(rows), left=12)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    low, high = _limits(rows, people)
    axes.set_xlim(low, high)
    axes.set_xticks(_ticks(low, high))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if people is not None:
        _draw_people(axes, *people)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, people)
    told = "; ".join(f"{row.label}: {row.told}" for row in rows)
    against = f" {people[1]}." if people else ""
    svg = inline_svg(figure, name, title, f"{title}. {told}.{against}")
    return Chart(name=name, title=title, plot=Plot(svg=svg), note=note)


def ends(dot: Dot) -> tuple[float, ...]:
    """Give the interval of a dot; nothing where it has none."""
    if dot.low is None or dot.high is None:
        return ()
    return (dot.low, dot.high) if math.isfinite(dot.low + dot.high) else ()


def _limits(rows: Sequence[DotRow], people: tuple[float, str] | None) -> tuple[float, float]:
    """Reach from nothing to the farthest value, so that distances are true to scale."""
    dots = [dot for row in rows for dot in row.dots]
    values = [0.0, *(end for dot in dots for end in (dot.value, *ends(dot)))]
    values += [people[0]] if people else []
    low, high = _ROOM * min(values), _ROOM * max(values)
    return (low, high) if high > low else (0.0, 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Choose numbers of the axis; one at its very end would be cut off, but a plain 0 fits."""
    edge = _EDGE * (high - low)
    found = [float(tick) for tick in MaxNLocator(6).tick_values(low, high)]
    return [tick for tick in found if tick == low == 0 or low + edge <= tick <= high - edge]


def _draw_people(axes: Axes, at: float, label: str) -> None:
    axes.axvline(at, color=INKS["people"], linewidth=1.6, linestyle=_DASHES)
    is_late = at > _LATE * axes.get_xlim()[1]
    axes.annotate(
        label,
        xy=(at, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3 if is_late else 0, 4),
        textcoords="offset points",
        horizontalalignment="right" if is_late else "left",
        fontsize=FONT_SIZE,
        fontweight="bold",
        color=INKS["text"],
        annotation_clip=False,
    )


def _draw_row(axes: Axes, place: int, row: DotRow, people: tuple[float, str] | None) -> None:
    low, high = axes.get_xlim()
    middle, top = place + _DOT_DOWN, place - _NAME_UP
    ink = INKS[row.ink]
    axes.plot([low, high], [middle, middle], color=INKS["grid"], linewidth=0.8)
    joined = [dot.value for dot in row.dots] + ([people[0]] if people else [])
    axes.plot([min(joined), max(joined)], [middle, middle], color=ink, linewidth=2.4, alpha=0.4)
    for dot in row.dots:
        axes.plot(ends(dot), [middle] * len(ends(dot)), color=ink, linewidth=1.6)
        axes.plot([dot.value], [middle], linestyle="", marker="o", markersize=9, color=ink)
        axes.lines[-1].set(zorder=4, clip_on=False)
        if dot.is_hollow:
            axes.lines[-1].set(markerfacecolor="none", markeredgewidth=2)
    write(axes, (low, top), drawn_text(row.label, _MAX_CHARS), va="center")
    write(axes, (high, top), row.told, ink="ink", ha="right", va="center", weight="bold")
