"""The plot of a calibration: what CIDEr-D can be had at which length gap."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raycap.calibration.record import Calibration
from raycap.calibration.search import Trial, frontier
from raycap.report.axes import HEIGHT, Plot, new_axes
from raycap.report.curves import short
from raycap.report.numbers import decimal, signed
from raycap.report.svg import INKS, inline_svg

_TALL = HEIGHT + 60
_DASHES = (0, (4, 3))
_LARGEST_FILLED = 10


def trade_off_plot(name: str, calibration: Calibration) -> Plot:
    """Draw all settings, the best of them as a curve, the start and the chosen one marked.

    Args:
        name: begins the ids of the drawing.
        calibration: what was tried.
    """
    start, chosen, trials = calibration.start, calibration.chosen, calibration.trials
    figure, axes = new_axes("length gap in tokens", _TALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(0.08)
    _draw_people(axes, calibration)
    best = sorted(frontier(trials), key=lambda trial: trial.length_gap)
    _draw(axes, trials, "people", "o", 4)
    _draw(axes, best, "line-0", "o", 6)
    axes.plot(*_places(best), color=INKS["line-0"], linewidth=1.8)
    _draw(axes, [start], "line-1", "s", 9)
    _draw(axes, [chosen], "line-2", "o", 13)
    description = (
        f"Of {len(trials)} settings, the first has a length gap of {signed(start.length_gap, 2)} "
        f"tokens at a CIDEr-D of {decimal(start.cider_d)}, the chosen one a gap of "
        f"{signed(chosen.length_gap, 2)} at {decimal(chosen.cider_d)}."
    )
    return Plot(svg=inline_svg(figure, name, "CIDEr-D over the length gap", description))


def _draw_people(axes: Axes, calibration: Calibration) -> None:
    """Mark where captions are as long as those of people, and the least CIDEr-D allowed."""
    closed = calibration.closed_gap
    axes.axvspan(-closed, closed, color=INKS["people"], alpha=0.25, linewidth=0)
    axes.axvline(0, color=INKS["people"], linewidth=1.4, linestyle=_DASHES)
    bar = calibration.start.cider_d * (1 - calibration.max_cider_loss)
    axes.axhline(bar, color=INKS["text"], linewidth=1.2, linestyle=_DASHES)


def _draw(axes: Axes, trials: Sequence[Trial], ink: str, shape: str, size: int) -> None:
    """Draw a mark for each setting; large ones are rings, to hide no other."""
    is_ring = size > _LARGEST_FILLED
    axes.plot(
        *_places(trials),
        linestyle="",
        marker=shape,
        markersize=size,
        markerfacecolor="none" if is_ring else INKS[ink],
        markeredgecolor=INKS[ink],
        markeredgewidth=2.4 if is_ring else 0,
        clip_on=False,
    )


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.length_gap for trial in trials], [trial.cider_d for trial in trials]
