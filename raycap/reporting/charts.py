"""Charts of a page: axes, titles and keys, and curves over the epochs of training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raycap.reporting.svg import INKS, POINTS_PER_INCH, inline_svg

FONT_SIZE = 12
HEIGHT = 236
"""Height of a plot, in points."""
WIDTH = 440
"""Width of a plot, in points: readable on a phone, and not huge on a large screen."""
LEFT = 52
"""Margin for the numbers of the vertical axis, in points."""
BOTTOM = 45
"""Margin for the numbers and the label of the horizontal axis, in points."""
DASHES = (0, (4, 3))

_RIGHT, _TOP = 5, 24  # margins, in points
_MAX_DOTS = 30  # epochs; beyond, the line alone is clearer
_LATE = 0.6  # of the axis: a label that begins further right is right-aligned
_MAX_CHARS = 14  # of a name in a drawing
_LAST_DRAWN = 0x17F  # code of the last letter that the font of drawings surely has
_SIGNS = "\N{MINUS SIGN}\N{EN DASH}\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing."""

    svg: Markup
    num_beyond: int = 0
    """Captions longer than the plot shows."""
    longest: int = 0
    """Longest caption length that it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values over epochs."""

    label: str
    """For the key, which is outside of the drawing: any text."""
    ink: str
    """A key of INKS."""
    epochs: Sequence[int] = ()
    values: Sequence[float] = ()
    """One per epoch; a value that is not finite is a gap in the curve."""
    is_dashed: bool = False
    ringed: int | None = None
    """The epoch whose value is marked with a ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A plot with its title, key and note."""

    name: str
    """Prefix of the ids of the drawing."""
    title: str
    plot: Plot
    key: tuple[Curve, ...] = ()
    note: str = ""


def new_axes(
    label: str,
    height: int = HEIGHT,
    *,
    width: int = WIDTH,
    left: int = LEFT,
    bottom: int = BOTTOM,
) -> tuple[Figure, Axes]:
    """Begin a plot.

    Args:
        label: of the horizontal axis.
        height: in points.
        width: in points.
        left: margin left of the vertical axis, in points.
        bottom: margin below the horizontal axis, in points.
    """
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    figure.set_dpi(POINTS_PER_INCH)
    across, tall = width - left - _RIGHT, height - bottom - _TOP
    axes = figure.add_axes((left / width, bottom / height, across / width, tall / height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INKS["grid"])
    axes.tick_params(length=0, pad=6, labelsize=FONT_SIZE, labelcolor=INKS["text"])
    axes.set_xlabel(label, fontsize=FONT_SIZE, color=INKS["text"], labelpad=5)
    axes.yaxis.grid(visible=True, color=INKS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure, axes


def write(
    axes: Axes, place: tuple[float, float], text: str, *, ink: str = "text", **look: Any
) -> None:
    """Write a text from an input: dollar signs do not start a formula.

    Args:
        axes: where to write.
        place: horizontal and vertical position, in data coordinates.
        text: only characters that the font of drawings has, see `drawn_text`.
        ink: a key of INKS.
        look: further arguments of matplotlib.
    """
    axes.text(*place, text, fontsize=FONT_SIZE, color=INKS[ink], parse_math=False, zorder=5, **look)


def write_above(axes: Axes, at: float, label: str, *, is_late: bool, offset: float = 0.0) -> None:
    """Write a bold label above the axes, left- or right-aligned at a horizontal position."""
    axes.annotate(
        label,
        xy=(at, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(offset, 4),
        textcoords="offset points",
        horizontalalignment="right" if is_late else "left",
        fontsize=FONT_SIZE,
        fontweight="bold",
        color=INKS["text"],
        annotation_clip=False,
    )


def drawn_text(text: str, most: int = _MAX_CHARS) -> str:
    """Make a text fit for a drawing: short, and only characters that its font has."""
    letters = (
        letter if letter.isprintable() and (ord(letter) <= _LAST_DRAWN or letter in _SIGNS) else "?"
        for letter in text[: most + 1]
    )
    plain = "".join(letters)
    return plain if len(plain) <= most else f"{plain[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def short(value: float) -> str:
    """Format a number of an axis: 0.00002 as `2e-5`, with a typographic minus."""
    text = f"{value:.6g}"
    if 0 < abs(value) < 0.0005:
        digits, _, power = f"{value:.2e}".partition("e")
        text = f"{float(digits):g}e{int(power)}"
    return text.replace("-", "\N{MINUS SIGN}")


def number_vertically(axes: Axes) -> None:
    """Number the vertical axis for any values, and leave a margin above and below them."""
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(y=0.1)


def draw_ring(axes: Axes, at: float, value: float, ink: str) -> None:
    """Draw a ring around a point."""
    axes.plot(
        [at],
        [value],
        linestyle="",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INKS[ink],
        markeredgewidth=1.8,
        clip_on=False,
    )


def epoch_axes(last: int, height: int = HEIGHT) -> tuple[Figure, Axes]:
    """Begin a plot over the epochs from 1 to the last."""
    figure, axes = new_axes("epoch", height)
    margin = 0.5 if last <= _MAX_DOTS else 0.02 * last
    axes.set_xlim(1 - margin, last + margin)
    number_vertically(axes)
    return figure, axes


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
        name: prefix of the ids of the drawing.
        title: of the chart.
        description: what the curves show, in words.
        curves: what to draw, the last on top.
        shaded_from: the epoch from which the model overfits.
        note: shown below the plot.
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


def _draw(axes: Axes, curve: Curve, *, has_dots: bool) -> None:
    values = [value if math.isfinite(value) else math.nan for value in curve.values]
    axes.plot(
        list(curve.epochs),
        values,
        color=INKS[curve.ink],
        linewidth=1.8,
        linestyle=DASHES if curve.is_dashed else "-",
        marker="o" if has_dots and not curve.is_dashed else "",
        markersize=4,
    )
    for epoch, value in zip(curve.epochs, values, strict=True):
        if epoch == curve.ringed:
            draw_ring(axes, float(epoch), value, curve.ink)


def _shade(axes: Axes, since: int, end: float) -> None:
    """Shade the epochs in which the model overfits."""
    start, whole = since - 0.5, end - 0.5
    axes.axvspan(start, end, color=INKS["people"], alpha=0.18, linewidth=0)
    axes.axvline(start, color=INKS["text"], linewidth=1.2, linestyle=DASHES)
    is_late = start > _LATE * whole
    at = end if is_late else start
    write_above(axes, at, f"overfitting from epoch {since}", is_late=is_late)
