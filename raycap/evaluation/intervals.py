"""Confidence intervals of every score, and paired tests between systems, in one set of resamples.

The systems of an evaluation are scored on the same images, and so resampled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np
from jaxtyping import Float64, Int64

from raycap.config import BootstrapConfig
from raycap.evaluation.sums import LENGTH, METRICS, SystemSums, Values
from raycap.metrics.bootstrap import Bootstrap, interval, p_value
from raycap.results.evaluation import Comparison

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """What resampling the images says of one evaluation; empty without resamples."""

    metrics: list[dict[str, Interval]]
    """Of each system, by metric."""
    length_gaps: list[Interval | None]
    """Of each system."""
    comparisons: list[Comparison] = field(default_factory=list)
    """Of each pair of systems, by metric and by length."""


def resample(
    names: Sequence[str],
    systems: Sequence[SystemSums],
    references: Int64[np.ndarray, "images 2"],
    config: BootstrapConfig,
) -> Resampled:
    """Resample the images of some systems.

    Args:
        names: of the systems.
        systems: their scores, of the same images.
        references: of each image, the tokens of its references and their number.
        config: how many resamples, and what the intervals cover.
    """
    if not config.num_resamples:
        return Resampled(metrics=[{} for _ in systems], length_gaps=[None] * len(systems))
    columns = [system.columns() for system in systems]
    widths = [sum(block.shape[1] for block in blocks) for blocks in columns]
    whole = np.concatenate([*chain.from_iterable(columns), references], axis=1, dtype=np.float64)
    bootstrap = Bootstrap(
        num_images=len(whole), num_resamples=config.num_resamples, seed=config.seed
    )
    blocks = np.split(bootstrap.sums(whole), np.cumsum(widths), axis=1)
    values = [system.values(block) for system, block in zip(systems, blocks[:-1], strict=True)]
    reference_lengths = blocks[-1][:, 0] / blocks[-1][:, 1]
    gaps = [found[LENGTH] - reference_lengths for found in values]
    return Resampled(
        metrics=[_intervals(found, config.confidence) for found in values],
        length_gaps=[_interval(gap, config.confidence) for gap in gaps],
        comparisons=[
            comparison
            for first, second in combinations(range(len(systems)), 2)
            for comparison in _compare(
                (names[first], names[second]),
                (_corpus(systems[first]), _corpus(systems[second])),
                (values[first], values[second]),
                config.confidence,
            )
        ],
    )


def _corpus(system: SystemSums) -> dict[str, float | None]:
    num_captions = int(system.has_caption.sum())
    length = float(system.lengths.sum() / num_captions) if num_captions else None
    return {**system.corpus(), LENGTH: length}


def _intervals(values: Values, confidence: float) -> dict[str, Interval]:
    found = {name: _interval(values[name], confidence) for name in METRICS if name in values}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _interval(values: Float64[np.ndarray, " resamples"], confidence: float) -> Interval | None:
    """Compute an interval of the resamples in which there is a value; None if there are none."""
    there = values[np.isfinite(values)]
    return interval(there, confidence) if len(there) else None


def _compare(
    names: tuple[str, str],
    corpora: tuple[dict[str, float | None], dict[str, float | None]],
    values: tuple[Values, Values],
    confidence: float,
) -> list[Comparison]:
    """Compare two systems by every score that both have."""
    found = []
    for metric in (*METRICS, LENGTH):
        first, second = (corpus.get(metric) for corpus in corpora)
        if first is None or second is None:
            continue
        differences = values[0][metric] - values[1][metric]
        differences = differences[np.isfinite(differences)]
        bounds = _interval(differences, confidence)
        if bounds is None:
            continue
        found.append(
            Comparison(
                metric=metric,
                first=names[0],
                second=names[1],
                difference=first - second,
                low=bounds[0],
                high=bounds[1],
                p_value=p_value(differences),
            )
        )
    return found
