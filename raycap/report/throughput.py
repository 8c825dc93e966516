"""Throughput over time, from the times at which the parts of an output were written."""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate

from raycap.report.axes import Plot
from raycap.report.plots import throughput_plot

Commit = tuple[str, int]
"""When a part was written, in ISO 8601 (empty where that is not known), and its images."""


def throughput(commits: Sequence[Commit], name: str) -> Plot | None:
    """Draw how many images stood after how long.

    Args:
        commits: of all parts of an output.
        name: begins the ids of the drawing.

    Returns:
        None where not every part tells its time, or all of them were written in one moment.
    """
    if not all(at for at, _ in commits):
        return None
    ordered = sorted((datetime.fromisoformat(at), num_images) for at, num_images in commits)
    seconds = [(at - ordered[0][0]).total_seconds() for at, _ in ordered]
    if not seconds or not seconds[-1]:
        return None
    return throughput_plot(name, seconds, list(accumulate(count for _, count in ordered)))
