"""What the plots of a page have in common: size, frame, grid, numbers on the axes."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raycap.reporting.svg import INKS, POINTS_PER_INCH

FONT_SIZE = 12
HEIGHT = 236
"""Of a plot, in points."""

WIDTH = 440
"""Of a plot, in points: readable at the width of a phone, and not huge beyond."""
LEFT = 52
"""Margin for the numbers of the upright axis, in points."""

BOTTOM = 45
"""Margin for the numbers and the label of the lower axis, in points."""

_RIGHT, _TOP = 5, 24  # margins, in points


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn plot."""

    svg: Markup
    num_beyond: int = 0
    """Captions longer than the plot shows."""
    longest: int = 0
    """The longest that it shows."""


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
        label: what its lower axis tells.
        height: in points.
        width: in points.
        left: margin for what stands beside the upright axis, in points.
        bottom: margin for what stands below the lower axis, in points.
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
    """Write a text that is not ours: dollar signs make no formula of it.

    Args:
        axes: where.
        place: from left and from below, in what the axes count in.
        text: letters that the font of drawings has.
        ink: a key of INKS.
        look: as matplotlib takes it.
    """
    axes.text(*place, text, fontsize=FONT_SIZE, color=INKS[ink], parse_math=False, zorder=5, **look)
