"""Section of an evaluation: length gaps, scores with intervals, paired tests, coverage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.reporting.blocks import (
    Fact,
    Failure,
    Section,
    failure_table,
    flat_facts,
    last_name,
)
from raycap.reporting.charts import Plot
from raycap.reporting.evaluation_gallery import evaluation_gallery
from raycap.reporting.numbers import (
    NONE,
    decimal,
    integer,
    moment,
    percent,
    plural,
    probability,
    signed,
)
from raycap.reporting.plots import Histogram, gap_plot
from raycap.results.evaluation import (
    Comparison,
    Evaluation,
    Lengths,
    Metric,
    System,
    read_evaluation,
)
from raycap.results.labels import metric_label
from raycap.storage.base import Store

WHISKER_PX, WHISKER_ROW_PX = 150, 14
"""Width of the drawing of a row's intervals, and its height per system."""

_MARGIN_PX = 7
_DIGITS = 3  # of scores and differences as shown
_POLICIES = {
    "error": "not allowed",
    "worst": "scored as empty captions",
    "drop": "left out for all systems",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of one system."""

    value: str = NONE
    interval: str = ""
    is_best: bool = False
    is_clear: bool = False
    """Whether it differs from that of each other system by the paired test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """A value with its interval, as positions in the row's drawing, in pixels."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure for all systems."""

    label: str
    note: str = ""
    cells: tuple[Cell, ...]
    whiskers: tuple[Whisker | None, ...] = ()
    """One per system; empty if the measure has no intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Related rows."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Formatted result of a paired test of two systems."""

    metric: str
    first: str
    second: str
    difference: str
    interval: str
    p_value: str
    is_significant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The length gap of one system."""

    system: str
    difference: str
    words: str
    """The difference in words."""
    interval: str
    generated: str
    """Mean tokens of the system's captions."""
    people: str
    """Mean tokens of the references."""
    plot: Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which captions of one system were scored."""

    system: str
    facts: tuple[Fact, ...]
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    model: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSection(Section):
    """Section of an evaluation."""

    template: ClassVar[str] = "evaluation.html.jinja"
    kind: ClassVar[str] = "Evaluation"

    address: str
    summary: tuple[str, ...]
    systems: tuple[str, ...]
    confidence: str
    gaps: tuple[Gap, ...]
    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
    skipped: tuple[Fact, ...]
    tests: tuple[Paired, ...]
    coverage: tuple[Coverage, ...]
    settings: tuple[Fact, ...]


def evaluation_section(store: Store, anchor: str, config: ReportConfig) -> EvaluationSection:
    """Read an evaluation, and build its section.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses.
    """
    evaluation = read_evaluation(store)
    names = tuple(system.name for system in evaluation.systems)
    return EvaluationSection(
        anchor=anchor,
        title=f"{_listed(names)} against {last_name(evaluation.references)}",
        address=store.uri,
        summary=_summary(evaluation),
        systems=names,
        confidence=f"{100 * evaluation.confidence:g} %" if evaluation.num_resamples else "",
        gaps=_gaps(evaluation, anchor),
        groups=score_groups(evaluation),
        warnings=tuple(evaluation.warnings),
        skipped=tuple(skipped_metrics(evaluation)),
        tests=tuple(paired_tests(evaluation)),
        coverage=tuple(map(_coverage, evaluation.systems)),
        settings=_settings(evaluation),
        gallery=evaluation_gallery(store, evaluation, config),
    )


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _summary(evaluation: Evaluation) -> tuple[str, ...]:
    num_systems = len(evaluation.systems)
    splits = f"split {', '.join(evaluation.splits)}" if evaluation.splits else "all splits"
    return (
        plural(num_systems, "system"),
        f"{integer(evaluation.num_images)} images",
        f"{integer(evaluation.num_references)} references",
        splits,
        f"tokenizer {evaluation.tokenizer}",
        *([moment(evaluation.created_at)] if evaluation.created_at else []),
    )


def _gaps(evaluation: Evaluation, anchor: str) -> tuple[Gap, ...]:
    people = _histogram(evaluation.reference_lengths)
    generated = [_histogram(system.lengths) for system in evaluation.systems]
    longest = max(lengths.longest for lengths in (people, *generated))
    gaps = []
    for number, (system, lengths) in enumerate(zip(evaluation.systems, generated, strict=True)):
        gap = system.length_gap
        interval = (
            ""
            if gap.low is None or gap.high is None
            else f"{signed(gap.low, 2)} to {signed(gap.high, 2)}"
        )
        name = f"{anchor}-gap-{number}"
        gaps.append(
            Gap(
                system=system.name,
                difference=signed(gap.difference, 1),
                words=_in_words(gap.difference),
                interval=interval,
                generated=decimal(system.lengths.mean, 1),
                people=decimal(evaluation.reference_lengths.mean, 1),
                plot=gap_plot(name, system.name, lengths, people, longest),
            )
        )
    return tuple(gaps)


def _histogram(lengths: Lengths) -> Histogram:
    return Histogram(counts=lengths.histogram, mean=lengths.mean)


def _in_words(difference: float) -> str:
    if round(difference, 1) == 0:
        return "as long as people write"
    return f"{'shorter' if difference < 0 else 'longer'} than people write"


def _coverage(system: System) -> Coverage:
    facts = [
        ("captions", f"{system.source} ({system.format})"),
        *([("corrections by people", system.edits)] if system.edits else []),
        ("ids matched by", system.matched_by),
        ("images scored", integer(system.num_images)),
        ("images without a row", integer(system.num_missing)),
        ("rows without references", integer(system.num_extra)),
        ("failed rows", integer(system.num_failed)),
    ]
    return Coverage(
        system=system.name,
        facts=tuple(facts),
        failures=failure_table(system.failed),
        missing=tuple(system.missing),
        extra=tuple(system.extra),
        model=tuple(flat_facts(system.model, "model")),
    )


def _settings(evaluation: Evaluation) -> tuple[Fact, ...]:
    resampling = (
        f"{integer(evaluation.num_resamples)} resamples of the images, seed {evaluation.seed}"
        if evaluation.num_resamples
        else "none"
    )
    policy = evaluation.missing_policy
    meaning = f"{policy} ({_POLICIES[policy]})" if policy in _POLICIES else policy
    return (
        ("references", evaluation.references),
        ("splits", ", ".join(evaluation.splits) or "all"),
        ("tokenizer", evaluation.tokenizer),
        ("images without a caption", meaning),
        ("confidence intervals and tests", resampling),
        ("duration", f"{decimal(evaluation.wall_s, 1)} s"),
        ("finished", moment(evaluation.created_at) or NONE),
        *flat_facts(evaluation.versions),
    )


def score_groups(evaluation: Evaluation) -> tuple[Group, ...]:
    """Build the table of scores: measures in rows, systems in columns."""
    systems = evaluation.systems
    names = list(dict.fromkeys(metric.name for system in systems for metric in system.metrics))
    metrics = [_metric_row(evaluation, name) for name in names]
    return (
        Group(label="Agreement with the references", rows=tuple(filter(None, metrics))),
        Group(label="Length", rows=_length_rows(evaluation)),
        Group(label="Variety", rows=_variety_rows(systems)),
    )


def skipped_metrics(evaluation: Evaluation) -> list[Fact]:
    """List metrics without a value with the reason, and with the systems unless it is all."""
    reasons: dict[Fact, list[str]] = {}
    for system in evaluation.systems:
        for metric in system.metrics:
            if metric.value is None:
                label = metric_label(metric.name)
                fact = label, metric.skipped or "no reason given"
                reasons.setdefault(fact, []).append(system.name)
    num_systems = len(evaluation.systems)
    return [
        (label if len(names) == num_systems else f"{label} of {', '.join(names)}", reason)
        for (label, reason), names in reasons.items()
    ]


def paired_tests(evaluation: Evaluation) -> list[Paired]:
    """Format the paired tests."""
    return [
        Paired(
            metric=metric_label(test.metric),
            first=test.first,
            second=test.second,
            difference=signed(test.difference),
            interval=_interval(test.low, test.high, signed),
            p_value=probability(test.p_value, evaluation.num_resamples),
            is_significant=_is_difference(test, 1 - evaluation.confidence),
        )
        for test in evaluation.comparisons
    ]


def _metric_row(evaluation: Evaluation, name: str) -> Row | None:
    found = [_metric(system, name) for system in evaluation.systems]
    values = [metric.value for metric in found]
    known = [round(value, _DIGITS) for value in values if value is not None]
    if not known:
        return None
    best = max(known)
    is_compared = min(known) < best or len(known) < len(values)  # as shown: ties have no best

    def is_best(value: float | None) -> bool:
        return is_compared and value is not None and round(value, _DIGITS) == best

    cells = [
        Cell(
            value=decimal(metric.value),
            interval=_interval(metric.low, metric.high, decimal),
            is_best=is_best(metric.value),
            is_clear=is_best(metric.value) and _is_clear(evaluation, name, system),
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
    """Return whether a system differs visibly from each other system by the paired test."""
    alpha = 1 - evaluation.confidence
    tests = [
        test
        for test in evaluation.comparisons
        if test.metric == name and system.name in (test.first, test.second)
    ]
    num_others = len(evaluation.systems) - 1
    return len(tests) == num_others and all(_is_difference(test, alpha) for test in tests)


def _is_difference(test: Comparison, alpha: float) -> bool:
    """Whether a difference is significant, and not 0 as shown."""
    return test.p_value < alpha and round(test.difference, _DIGITS) != 0


def _length_rows(evaluation: Evaluation) -> tuple[Row, ...]:
    systems, people = evaluation.systems, evaluation.reference_lengths
    gaps = [system.length_gap for system in systems]
    nearest = [round(abs(gap.difference), 2) for gap in gaps]
    gap_cells = [
        Cell(
            value=signed(gap.difference, 2),
            interval=_interval(gap.low, gap.high, lambda value: signed(value, 2)),
            is_best=min(nearest) < max(nearest) and round(abs(gap.difference), 2) == min(nearest),
        )
        for gap in gaps
    ]
    means = [Cell(value=decimal(system.lengths.mean, 2)) for system in systems]
    medians = [Cell(value=decimal(system.lengths.median, 1)) for system in systems]
    distances = [Cell(value=decimal(gap.wasserstein, 2)) for gap in gaps]
    return (
        Row(
            label="Length gap",
            note="mean tokens minus those of people",
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
            label="Distance between length distributions",
            note="earth mover\N{RIGHT SINGLE QUOTATION MARK}s distance, in tokens",
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
        row("Distinct-1", "share of distinct tokens", lambda s: decimal(s.diversity.distinct_1)),
        row("Distinct-2", "share of distinct pairs", lambda s: decimal(s.diversity.distinct_2)),
        row("Vocabulary", "distinct tokens", lambda s: integer(s.diversity.vocabulary_size)),
        row(
            "Distinct captions",
            "without repeats",
            lambda s: integer(s.diversity.num_different_captions),
        ),
        row(
            "Repetition",
            "captions with an immediate repetition",
            lambda s: percent(s.diversity.repetition),
        ),
        row("Copied", "identical to a training caption", copied),
        row("Log-probability", "mean per caption", lambda s: decimal(s.mean_logprob, 2)),
    )
    return tuple(row for row in rows if any(cell.value != NONE for cell in row.cells))


def _interval(low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    if low is None or high is None:
        return ""
    return f"{show(low)} to {show(high)}"


def _whiskers(
    ranges: Sequence[tuple[float | None, float | None, float | None]],
) -> tuple[Whisker | None, ...]:
    """Place values with intervals on a common axis; empty if there is nothing to compare."""
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
