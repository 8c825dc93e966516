"""Plots of caption lengths, and of throughput over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from raycap.reporting.charts import DASHES, FONT_SIZE, Plot, new_axes
from raycap.reporting.numbers import decimal, signed
from raycap.reporting.svg import INKS, inline_svg

_SHOWN_SHARE = 0.995
_TOUCHING = 0.02  # of the axis: between closer means there is no room for an arrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Distribution of caption lengths."""

    counts: Mapping[int, int]
    """Number of captions by their length."""
    mean: float

    @property
    def longest(self) -> int:
        """The length that 99.5 % of the captions do not exceed."""
        if not self.counts:
            return 0
        lengths = sorted(self.counts)
        needed = _SHOWN_SHARE * sum(self.counts.values())
        reached = accumulate(self.counts[length] for length in lengths)
        return next(n for n, so_far in zip(lengths, reached, strict=True) if so_far >= needed)

    def shares(self, longest: int) -> Float64[np.ndarray, " n"]:
        """Return the percentage of captions for each length from 0 to `longest`."""
        total = max(1, sum(self.counts.values()))
        return np.array([100 * self.counts.get(n, 0) / total for n in range(longest + 1)])


def gap_plot(name: str, system: str, generated: Histogram, people: Histogram, longest: int) -> Plot:
    """Draw the lengths of a system's captions over those of the references, and the length gap.

    Args:
        name: prefix of the ids of the drawing.
        system: name of the system, used only in the description.
        generated: lengths of the system's captions, in tokens.
        people: lengths of the references, in tokens.
        longest: end of the axis; the same for all systems of a page.
    """
    figure, axes = _blank(longest, "tokens per caption")
    edges = np.arange(longest + 2) - 0.5
    axes.stairs(people.shares(longest), edges, fill=True, color=INKS["people"], alpha=0.55)
    _outline(axes, generated.shares(longest), edges)
    _mark_means(axes, generated.mean, people.mean, longest)
    description = (
        f"Captions of {system} have {decimal(generated.mean, 1)} tokens on average, those written "
        f"by people {decimal(people.mean, 1)}: a gap of "
        f"{signed(generated.mean - people.mean, 1)}."
    )
    svg = inline_svg(figure, name, f"Caption lengths: {system} and people", description)
    return Plot(svg=svg, num_beyond=_beyond(generated, people, longest=longest), longest=longest)


def length_plot(name: str, unit: str, lengths: Histogram) -> Plot:
    """Draw the lengths of captions.

    Args:
        name: prefix of the ids of the drawing.
        unit: of the lengths, such as `words`.
        lengths: of all captions.
    """
    longest = lengths.longest
    figure, axes = _blank(longest, f"{unit} per caption")
    edges = np.arange(longest + 2) - 0.5
    _outline(axes, lengths.shares(longest), edges)
    _mark(axes, lengths.mean, decimal(lengths.mean, 1), "system", "center")
    description = f"The captions have {decimal(lengths.mean, 1)} {unit} on average."
    svg = inline_svg(figure, name, "Caption lengths", description)
    return Plot(svg=svg, num_beyond=_beyond(lengths, longest=longest), longest=longest)


Commit = tuple[str, int]
"""Time at which a part was written, in ISO 8601 (empty if unknown), and its number of images."""


def throughput_plot(name: str, commits: Sequence[Commit]) -> Plot | None:
    """Draw the number of captioned images over time.

    Args:
        name: prefix of the ids of the drawing.
        commits: of all parts of an output.

    Returns:
        None if a part has no time, or all were written in the same second.
    """
    if not all(at for at, _ in commits):
        return None
    ordered = sorted((datetime.fromisoformat(at), num_images) for at, num_images in commits)
    seconds = [(at - ordered[0][0]).total_seconds() for at, _ in ordered]
    if not seconds or not seconds[-1]:
        return None
    images = list(accumulate(count for _, count in ordered))
    scale, unit = _time_unit(seconds[-1])
    figure, axes = new_axes(f"{unit} since the first part")
    times = [second / scale for second in seconds]
    axes.fill_between(times, images, step="post", color=INKS["system"], alpha=0.25, linewidth=0)
    axes.step(times, images, where="post", color=INKS["system"], linewidth=1.8)
    axes.set_xlim(0, times[-1])
    axes.set_ylim(0, images[-1] * 1.05)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    description = (
        f"{images[-1]:,} images were captioned within {decimal(times[-1], 1)} {unit} after the "
        "first part."
    )
    return Plot(svg=inline_svg(figure, name, "Captioned images over time", description))


def _time_unit(seconds: float) -> tuple[int, str]:
    if seconds >= 3 * 3600:
        return 3600, "hours"
    return (60, "minutes") if seconds >= 180 else (1, "seconds")


def _beyond(*histograms: Histogram, longest: int) -> int:
    counted = (lengths.counts.items() for lengths in histograms)
    return sum(count for items in counted for length, count in items if length > longest)


def _blank(longest: int, label: str) -> tuple[Figure, Axes]:
    figure, axes = new_axes(label)
    axes.set_xlim(-0.5, longest + 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    return figure, axes


def _outline(
    axes: Axes, shares: Float64[np.ndarray, " n"], edges: Float64[np.ndarray, " m"]
) -> None:
    """Draw a lightly filled histogram with an outline, but no line where it is empty."""
    axes.stairs(shares, edges, fill=True, color=INKS["system"], alpha=0.25)
    drawn = np.where(shares > 0, shares, np.nan)
    axes.stairs(drawn, edges, color=INKS["system"], linewidth=1.8, baseline=0)


def _mark_means(axes: Axes, generated: float, people: float, longest: int) -> None:
    """Mark both means, with an arrow from that of people to the other."""
    is_short = generated <= people
    _mark(axes, generated, decimal(generated, 1), "system", "right" if is_short else "left")
    _mark(axes, people, decimal(people, 1), "people", "left" if is_short else "right")
    if abs(generated - people) > _TOUCHING * (longest + 1):
        axes.annotate(
            "",
            xy=(generated, 1.05),
            xytext=(people, 1.05),
            xycoords=axes.get_xaxis_transform(),
            arrowprops={
                "arrowstyle": "-|>,head_width=0.25,head_length=0.5",
                "color": INKS["text"],
                "linewidth": 1.2,
                "shrinkA": 1,
                "shrinkB": 1,
            },
            annotation_clip=False,
        )


def _mark(axes: Axes, at: float, label: str, ink: str, side: str) -> None:
    axes.plot(
        [at, at],
        [0, 1.05],
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        color=INKS[ink],
        linewidth=1.6,
        linestyle=DASHES if ink == "people" else "-",
    )
    inward = {"right": -5, "left": 5, "center": 0}[side]
    axes.annotate(
        label,
        xy=(at, 1.05),
        xycoords=axes.get_xaxis_transform(),
        xytext=(inward, 4 if side == "center" else 1),
        textcoords="offset points",
        horizontalalignment=side,
        fontsize=FONT_SIZE + 1,
        fontweight="bold",
        color=INKS["text"],
        annotation_clip=False,
    )
