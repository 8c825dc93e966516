"""Curves over the epochs of training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raycap.reporting.axes import FONT_SIZE, HEIGHT, Plot, new_axes
from raycap.reporting.svg import INKS, inline_svg

_MAX_DOTS = 30  # epochs; beyond, the line alone is clearer
_DASHES = (0, (4, 3))
_LATE = 0.6  # of the axis: a label that begins further right is written to the left


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values over epochs."""

    label: str
    """For the key, which stands outside of the drawing: it may hold anything."""
    ink: str
    """A key of INKS."""
    epochs: Sequence[int]
    values: Sequence[float]
    """One an epoch; what is not finite is a gap in the curve."""
    is_dashed: bool = False
    ringed: int | None = None
    """The epoch whose value is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A plot with its title, its key and a remark."""

    name: str
    """Begins the ids of the drawing."""
    title: str
    plot: Plot
    key: tuple[Curve, ...] = ()
    note: str = ""


def epoch_chart(
    name: str,
    title: str,
    description: str,
    curves: Sequence[Curve],
    *,
    shaded_from: int | None = None,
    note: str = "",
) -> Chart:
    """Draw curves over epochs.

    Args:
        name: begins the ids of the drawing.
        title: of the chart.
        description: what the curves show, in words.
        curves: what to draw, the last on top.
        shaded_from: the epoch from which the model overfits.
        note: a remark to stand below.
    """
    last = max((epoch for curve in curves for epoch in curve.epochs), default=1)
    figure, axes = epoch_axes(last)
    if shaded_from is not None:
        _shade(axes, shaded_from, axes.get_xlim()[1])
    for curve in curves:
        _draw(axes, curve, has_dots=last <= _MAX_DOTS)
    svg = inline_svg(figure, name, title, description)
    key = tuple(curves) if len(curves) > 1 else ()
    return Chart(name=name, title=title, plot=Plot(svg=svg), key=key, note=note)


def epoch_axes(last: int, height: int = HEIGHT) -> tuple[Figure, Axes]:
    """Begin a plot over the epochs from 1 to the last."""
    figure, axes = new_axes("epoch", height)
    margin = 0.5 if last <= _MAX_DOTS else 0.02 * last
    axes.set_xlim(1 - margin, last + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(y=0.1)
    return figure, axes


def short(value: float) -> str:
    """Write a number of an axis: 0.00002 as `2e-5`, with a proper minus."""
    text = f"{value:.6g}"
    if 0 < abs(value) < 0.0005:
        digits, _, power = f"{value:.2e}".partition("e")
        text = f"{float(digits):g}e{int(power)}"
    return text.replace("-", "\N{MINUS SIGN}")


def _draw(axes: Axes, curve: Curve, *, has_dots: bool) -> None:
    values = [value if math.isfinite(value) else math.nan for value in curve.values]
    axes.plot(
        list(curve.epochs),
        values,
        color=INKS[curve.ink],
        linewidth=1.8,
        linestyle=_DASHES if curve.is_dashed else "-",
        marker="o" if has_dots and not curve.is_dashed else "",
        markersize=4,
    )
    ringed = [pair for pair in zip(curve.epochs, values, strict=True) if pair[0] == curve.ringed]
    axes.plot(
        [epoch for epoch, _ in ringed],
        [value for _, value in ringed],
        linestyle="",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INKS[curve.ink],
        markeredgewidth=1.8,
        clip_on=False,
    )


def _shade(axes: Axes, since: int, end: float) -> None:
    """Shade the epochs in which the model overfits."""
    start, whole = since - 0.5, end - 0.5
    axes.axvspan(start, end, color=INKS["people"], alpha=0.18, linewidth=0)
    axes.axvline(start, color=INKS["text"], linewidth=1.2, linestyle=_DASHES)
    is_late = start > _LATE * whole
    axes.annotate(
        f"overfitting from epoch {since}",
        xy=(end if is_late else start, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        horizontalalignment="right" if is_late else "left",
        fontsize=FONT_SIZE,
        fontweight="bold",
        color=INKS["text"],
        annotation_clip=False,
    )
