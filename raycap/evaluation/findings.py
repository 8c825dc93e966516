"""What was found of each system, as `evaluation.json` tells it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raycap.evaluation.captions import Captions
from raycap.evaluation.intervals import Interval, Resampled
from raycap.evaluation.matching import Match
from raycap.evaluation.record import Diversity, LengthGap, Lengths, Metric, System
from raycap.evaluation.sums import METRICS, SystemSums
from raycap.metrics.diversity import DiversityCounts
from raycap.metrics.lengths import Histogram, mean_length, median_length, wasserstein


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFound:
    """All that was found of one system."""

    captions: Captions
    match: Match
    sums: SystemSums
    diversity: DiversityCounts
    mean_logprob: float | None
    skipped: dict[str, str]
    """Metrics without a value, and why."""
    scores: str
    """Key of its per-image scores; "" where none were written."""

    def lengths(self) -> Counter[int]:
        """Count its captions by their length."""
        return Counter(self.sums.lengths[self.sums.has_caption].tolist())


def describe_systems(
    found: Sequence[SystemFound],
    resampled: Resampled,
    references: Histogram,
    *,
    tells_copies: bool,
) -> list[System]:
    """Put together what is told of each system.

    Args:
        found: the systems.
        resampled: their intervals.
        references: captions of people, by their length.
        tells_copies: whether copies of training captions were counted.
    """
    parts = zip(found, resampled.metrics, resampled.length_gaps, strict=True)
    return [
        _system(system, intervals, gap, references, tells_copies=tells_copies)
        for system, intervals, gap in parts
    ]


def describe_lengths(histogram: Histogram) -> Lengths:
    """Describe captions by their length in tokens."""
    return Lengths(
        mean=mean_length(histogram),
        median=median_length(histogram),
        histogram=dict(sorted(histogram.items())),
    )


def _system(
    found: SystemFound,
    intervals: dict[str, Interval],
    gap: Interval | None,
    references: Histogram,
    *,
    tells_copies: bool,
) -> System:
    lengths = found.lengths()
    captions, match = found.captions, found.match
    return System(
        name=captions.name,
        source=captions.source,
        format=str(captions.format),
        scores=found.scores,
        model=captions.model,
        matched_by=match.matched_by,
        num_images=len(found.sums.has_caption),
        num_missing=match.num_missing,
        missing=match.missing,
        num_extra=match.num_extra,
        extra=match.extra,
        num_failed=match.num_failed,
        failed=match.failed,
        mean_logprob=found.mean_logprob,
        metrics=_metrics(found, intervals),
        lengths=describe_lengths(lengths),
        length_gap=LengthGap(
            difference=mean_length(lengths) - mean_length(references),
            low=None if gap is None else gap[0],
            high=None if gap is None else gap[1],
            wasserstein=wasserstein(lengths, references),
        ),
        diversity=_diversity(found.diversity, tells_copies=tells_copies),
    )


def _diversity(counts: DiversityCounts, *, tells_copies: bool) -> Diversity:
    return Diversity(
        distinct_1=counts.distinct_1,
        distinct_2=counts.distinct_2,
        repetition=counts.repetition,
        vocabulary_size=counts.vocabulary_size,
        num_different_captions=counts.num_different_captions,
        copied_from_training=counts.copied if tells_copies else None,
    )


def _metrics(found: SystemFound, intervals: dict[str, Interval]) -> list[Metric]:
    values = found.sums.corpus()
    metrics = []
    for name in METRICS:
        low, high = intervals.get(name, (None, None))
        value = values.get(name)
        reason = found.skipped.get(name, "no image has a score") if value is None else None
        metrics.append(Metric(name=name, value=value, low=low, high=high, skipped=reason))
    return metrics
