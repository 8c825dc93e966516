"""The table of an evaluation: what each system is worth, with intervals, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raycap.reporting.blocks import Fact
from raycap.reporting.numbers import NONE, decimal, integer, percent, probability, signed
from raycap.results.evaluation import Evaluation, Metric, System
from raycap.results.labels import metric_label

WHISKER_PX, WHISKER_ROW_PX = 150, 14
"""Size of the drawing of a row's intervals: its width, and its height a system."""

_MARGIN_PX = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of one system."""

    value: str = NONE
    interval: str = ""
    is_best: bool = False
    is_clear: bool = False
    """Whether it is better than that of each other system by the paired test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """A value with its interval, as places in pixels of the row's drawing."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure of all systems."""

    label: str
    note: str = ""
    cells: tuple[Cell, ...]
    whiskers: tuple[Whisker | None, ...] = ()
    """One a system; none at all where the measure has no intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that belong together."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A paired test of two systems, as shown."""

    metric: str
    first: str
    second: str
    difference: str
    interval: str
    p_value: str
    is_significant: bool


def score_groups(evaluation: Evaluation) -> tuple[Group, ...]:
    """Build the table: measures in rows, systems in columns."""
    systems = evaluation.systems
    names = list(dict.fromkeys(metric.name for system in systems for metric in system.metrics))
    metrics = [_metric_row(evaluation, name) for name in names]
    return (
        Group(label="Against what people wrote", rows=tuple(filter(None, metrics))),
        Group(label="Length", rows=_length_rows(evaluation)),
        Group(label="Variety", rows=_variety_rows(systems)),
    )


def skipped_metrics(evaluation: Evaluation) -> list[Fact]:
    """Name the metrics without a value, each with the reason, and the systems if not all."""
    reasons: dict[Fact, list[str]] = {}
    for system in evaluation.systems:
        for metric in system.metrics:
            if metric.value is None:
                label = metric_label(metric.name)
                fact = label, metric.skipped or "no reason is given"
                reasons.setdefault(fact, []).append(system.name)
    num_systems = len(evaluation.systems)
    return [
        (label if len(names) == num_systems else f"{label} of {', '.join(names)}", reason)
        for (label, reason), names in reasons.items()
    ]


def paired_tests(evaluation: Evaluation) -> list[Paired]:
    """Show the paired tests."""
    return [
        Paired(
            metric=metric_label(test.metric),
            first=test.first,
            second=test.second,
            difference=signed(test.difference),
            interval=_interval(test.low, test.high, signed),
            p_value=probability(test.p_value, evaluation.num_resamples),
            is_significant=test.p_value < 1 - evaluation.confidence,
        )
        for test in evaluation.comparisons
    ]


def _metric_row(evaluation: Evaluation, name: str) -> Row | None:
    found = [_metric(system, name) for system in evaluation.systems]
    values = [metric.value for metric in found]
    best = max((value for value in values if value is not None), default=None)
    if best is None:
        return None
    is_compared = len(found) > 1
    cells = [
        Cell(
            value=decimal(metric.value),
            interval=_interval(metric.low, metric.high, decimal),
            is_best=is_compared and metric.value == best,
            is_clear=is_compared and metric.value == best and _is_clear(evaluation, name, system),
        )
        for system, metric in zip(evaluation.systems, found, strict=True)
    ]
    ranges = [(metric.low, metric.value, metric.high) for metric in found]
    return Row(label=metric_label(name), cells=tuple(cells), whiskers=_whiskers(ranges))


def _metric(system: System, name: str) -> Metric:
    return next(
        (metric for metric in system.metrics if metric.name == name), Metric(name=name, value=None)
    )


def _is_clear(evaluation: Evaluation, name: str, system: System) -> bool:
    """Whether a system differs from each other one by the paired test."""
    alpha = 1 - evaluation.confidence
    tests = [
        test
        for test in evaluation.comparisons
        if test.metric == name and system.name in (test.first, test.second)
    ]
    num_others = len(evaluation.systems) - 1
    return len(tests) == num_others and all(test.p_value < alpha for test in tests)


def _length_rows(evaluation: Evaluation) -> tuple[Row, ...]:
    systems, people = evaluation.systems, evaluation.reference_lengths
    gaps = [system.length_gap for system in systems]
    least = min(abs(gap.difference) for gap in gaps)
    gap_cells = [
        Cell(
            value=signed(gap.difference, 2),
            interval=_interval(gap.low, gap.high, lambda value: signed(value, 2)),
            is_best=len(gaps) > 1 and abs(gap.difference) == least,
        )
        for gap in gaps
    ]
    means = [Cell(value=decimal(system.lengths.mean, 2)) for system in systems]
    medians = [Cell(value=decimal(system.lengths.median, 1)) for system in systems]
    distances = [Cell(value=decimal(gap.wasserstein, 2)) for gap in gaps]
    return (
        Row(
            label="Length gap",
            note="mean tokens, less those of people",
            cells=tuple(gap_cells),
            whiskers=_whiskers([(gap.low, gap.difference, gap.high) for gap in gaps]),
        ),
        Row(label="Mean tokens", note=f"people: {decimal(people.mean, 2)}", cells=tuple(means)),
        Row(
            label="Median tokens",
            note=f"people: {decimal(people.median, 1)}",
            cells=tuple(medians),
        ),
        Row(
            label="Distance of lengths",
            note="earth mover\N{RIGHT SINGLE QUOTATION MARK}s, in tokens",
            cells=tuple(distances),
        ),
    )


def _variety_rows(systems: Sequence[System]) -> tuple[Row, ...]:
    def row(label: str, note: str, value: Callable[[System], str]) -> Row:
        return Row(
            label=label, note=note, cells=tuple(Cell(value=value(system)) for system in systems)
        )

    def copied(system: System) -> str:
        share = system.diversity.copied_from_training
        return NONE if share is None else percent(share)

    rows = (
        row("Distinct-1", "different of all tokens", lambda s: decimal(s.diversity.distinct_1)),
        row("Distinct-2", "different of all pairs", lambda s: decimal(s.diversity.distinct_2)),
        row("Vocabulary", "different tokens", lambda s: integer(s.diversity.vocabulary_size)),
        row(
            "Different captions",
            "no two alike",
            lambda s: integer(s.diversity.num_different_captions),
        ),
        row("Repetition", "captions that stutter", lambda s: percent(s.diversity.repetition)),
        row("Copied", "word for word from training", copied),
        row("Log-probability", "mean of the captions", lambda s: decimal(s.mean_logprob, 2)),
    )
    return tuple(row for row in rows if any(cell.value != NONE for cell in row.cells))


def _interval(low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    if low is None or high is None:
        return ""
    return f"{show(low)} to {show(high)}"


def _whiskers(
    ranges: Sequence[tuple[float | None, float | None, float | None]],
) -> tuple[Whisker | None, ...]:
    """Place values with intervals on one axis; none where there is nothing to compare."""
    known = [(low, value, high) for low, value, high in ranges if value is not None]
    ends = [end for low, _, high in known for end in (low, high) if end is not None]
    if len(ranges) < 2 or not ends or len(ends) < 2 * len(known):
        return ()
    low_end, span = min(ends), max(ends) - min(ends)

    def place(value: float | None) -> float:
        share = (value - low_end) / span if span and value is not None else 0.5
        return round(_MARGIN_PX + share * (WHISKER_PX - 2 * _MARGIN_PX), 1)

    return tuple(
        None if value is None else Whisker(low=place(low), value=place(value), high=place(high))
        for low, value, high in ranges
    )
