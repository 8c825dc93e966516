"""The section of an evaluation: the length gap, the scores, what was compared with what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.evaluation.record import Evaluation, Lengths, System, read_evaluation
from raycap.report.axes import Plot
from raycap.report.blocks import Fact, Failure, failure_table, flat_facts, last_name
from raycap.report.evaluation_gallery import evaluation_gallery
from raycap.report.gallery import Gallery
from raycap.report.numbers import NONE, decimal, integer, moment, signed
from raycap.report.plots import Histogram, gap_plot
from raycap.report.score_table import (
    Group,
    Paired,
    paired_tests,
    score_groups,
    skipped_metrics,
)
from raycap.storage.base import Store

_POLICIES = {
    "error": "there are none",
    "worst": "scored as empty captions",
    "drop": "left out, for all systems",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The length gap of one system."""

    system: str
    difference: str
    words: str
    """What it means."""
    interval: str
    generated: str
    """Mean tokens of the system's captions."""
    people: str
    """Mean tokens of the references."""
    plot: Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which captions of one system were scored, and which were not."""

    system: str
    facts: tuple[Fact, ...]
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    model: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSection:
    """What the page shows of an evaluation."""

    template: ClassVar[str] = "evaluation.html.jinja"
    kind: ClassVar[str] = "Evaluation"

    anchor: str
    title: str
    address: str
    summary: tuple[str, ...]
    systems: tuple[str, ...]
    confidence: str
    gaps: tuple[Gap, ...]
    groups: tuple[Group, ...]
    skipped: tuple[Fact, ...]
    tests: tuple[Paired, ...]
    coverage: tuple[Coverage, ...]
    settings: tuple[Fact, ...]
    gallery: Gallery | None


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
        "1 system" if num_systems == 1 else f"{num_systems} systems",
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
        ("matched by", system.matched_by),
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
        ("intervals and tests", resampling),
        ("time", f"{decimal(evaluation.wall_s, 1)} s"),
        ("finished", moment(evaluation.created_at) or NONE),
        *flat_facts(evaluation.versions),
    )
