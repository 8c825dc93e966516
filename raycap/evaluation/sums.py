"""Scores of a corpus from sums over its images, with confidence intervals and paired tests.

Every corpus score is a function of sums over images (see `metric.Metric`), so a resample of the
images only changes these sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raycap.config import BootstrapConfig
from raycap.evaluation.metric import Metric, Values
from raycap.evaluation.registry import METRICS, SCORE_NAMES
from raycap.evaluation.scoring import SystemScores
from raycap.metrics.bootstrap import Bootstrap, interval, p_value
from raycap.results.evaluation import Comparison
from raycap.results.labels import LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSums:
    """All scored images of one system, in order."""

    statistics: dict[str, np.ndarray]
    """By the names of the metrics that ran, in the order of the registry; see `metric.Score`."""
    lengths: Int64[np.ndarray, " images"]
    """Of the captions, in tokens; 0 where there is none."""
    has_caption: Bool[np.ndarray, " images"]

    @classmethod
    def of(
        cls,
        chunks: Sequence[SystemScores],
        more: dict[str, Float64[np.ndarray, " images"]] | None = None,
    ) -> "SystemSums":
        """Concatenate the chunks of a system.

        A metric that failed on a chunk is left out.

        Args:
            chunks: in order.
            more: statistics of metrics with a pass of their own, such as CLIPScore.
        """
        found = dict(more or {})
        for name in chunks[0].statistics:
            blocks = [chunk.statistics[name] for chunk in chunks if name in chunk.statistics]
            if len(blocks) == len(chunks):
                found[name] = np.concatenate(blocks)
        return cls(
            statistics={known.name: found[known.name] for known in METRICS if known.name in found},
            lengths=np.concatenate([chunk.lengths for chunk in chunks]),
            has_caption=np.concatenate([chunk.has_caption for chunk in chunks]),
        )

    def columns(self) -> list[np.ndarray]:
        """Return what `values` needs the sums of: blocks of columns, one row per image."""
        blocks = (metric.summands(self.statistics[metric.name]) for metric in self._metrics())
        return list(chain.from_iterable(blocks))

    def values(self, sums: Float64[np.ndarray, "*batch k"]) -> Values:
        """Return the corpus's scores from sums of `columns`; NaN where no image has a score."""
        found: Values = {}
        start = 0
        for metric in self._metrics():
            blocks = metric.summands(self.statistics[metric.name][:1])
            end = start + sum(block.shape[1] for block in blocks)
            found |= metric.of_sums(sums[..., start:end])
            start = end
        return found

    def corpus(self) -> dict[str, float | None]:
        """Return the corpus's scores and LENGTH, to the last bit the same in any order of images.

        None where no image has a score.
        """
        found: dict[str, float | None] = {}
        for metric in self._metrics():
            found |= metric.of_corpus(self.statistics[metric.name])
        return found

    def _metrics(self) -> list[Metric]:
        return [metric for metric in METRICS if metric.name in self.statistics]


Interval = tuple[float, float]

_NO_DIFFERENCE = 5e-5
"""Scores that are nearer than this are equal: the fourth decimal is the last that tables show.
BLEU-4 without a matching n-gram, for instance, is a few millionths rather than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """Results of resampling the images of an evaluation; empty without resamples."""

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
    """Resample the images of an evaluation; all systems have the same, so that they are paired.

    Args:
        names: names of the systems.
        systems: their scores of the same images.
        references: of each image, the tokens of its references and their number.
        config: number of resamples, and confidence of the intervals.
    """
    # All resamples of one image are equal: an interval from them would claim certainty.
    if not config.num_resamples or len(references) < 2:
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
                (systems[first].corpus(), systems[second].corpus()),
                (values[first], values[second]),
                config.confidence,
            )
        ],
    )


def _intervals(values: Values, confidence: float) -> dict[str, Interval]:
    found = {name: _interval(values[name], confidence) for name in SCORE_NAMES if name in values}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _interval(values: Float64[np.ndarray, " resamples"], confidence: float) -> Interval | None:
    """Return the interval over the resamples that have a value; None if there are none."""
    there = values[np.isfinite(values)]
    return interval(there, confidence) if len(there) else None


def _without_noise(differences: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    return np.where(np.abs(differences) < _NO_DIFFERENCE, 0.0, differences)


def _compare(
    names: tuple[str, str],
    corpora: tuple[dict[str, float | None], dict[str, float | None]],
    values: tuple[Values, Values],
    confidence: float,
) -> list[Comparison]:
    """Compare two systems by every score that both have."""
    found = []
    for metric in (*SCORE_NAMES, LENGTH):
        first, second = (corpus.get(metric) for corpus in corpora)
        if first is None or second is None:
            continue
        differences = values[0][metric] - values[1][metric]
        differences = _without_noise(differences[np.isfinite(differences)])
        bounds = _interval(differences, confidence)
        if bounds is None:
            continue
        found.append(
            Comparison(
                metric=metric,
                first=names[0],
                second=names[1],
                difference=float(_without_noise(np.array(first - second))),
                low=bounds[0],
                high=bounds[1],
                p_value=p_value(differences),
            )
        )
    return found
