"""What the plots of a page have in common: size, frame, grid, numbers on the axes."""

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raycap.report.svg import INKS, POINTS_PER_INCH

FONT_SIZE = 12
HEIGHT = 236
"""Of a plot, in points."""

_WIDTH = 440  # in points: readable at the width of a phone, and not huge beyond
_LEFT, _RIGHT, _BOTTOM, _TOP = 52, 5, 45, 24  # margins, in points


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn plot."""

    svg: Markup
    num_beyond: int = 0
    """Captions longer than the plot shows."""
    longest: int = 0
    """The longest that it shows."""


def new_axes(label: str, height: int = HEIGHT) -> tuple[Figure, Axes]:
    """Begin a plot.

    Args:
        label: what its lower axis tells.
        height: in points.
    """
    figure = Figure(figsize=(_WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH))
    figure.set_dpi(POINTS_PER_INCH)
    width, tall = _WIDTH - _LEFT - _RIGHT, height - _BOTTOM - _TOP
    axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / height, width / _WIDTH, tall / height))
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
