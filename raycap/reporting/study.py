"""Section of a study: conclusions, tables of systems, charts."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.reporting.blocks import Fact, Section, Tile, clipped, enumerated, flat_facts, last_name
from raycap.reporting.charts import Chart
from raycap.reporting.numbers import NONE, decimal, integer, moment, plural, signed
from raycap.reporting.study_charts import (
    augmentation_charts,
    growth_charts,
    length_chart,
    score_chart,
    share_name,
)
from raycap.results.labels import LENGTH_GAP, MEAN_WORDS, METRIC_LABELS, metric_label
from raycap.results.status import Status
from raycap.results.study import Study, SystemRecord, TrainingFound, read_study
from raycap.schema import BLEU, CIDER_D, METEOR, ROUGE_L
from raycap.storage.base import Store
from raycap.text import duration

_USUAL = frozenset({CIDER_D, ROUGE_L, METEOR, *BLEU})
_MB = 1_000_000
_LONG_S = 120  # from here, `duration` formats minutes
_STATUSES = (Status.FINISHED, Status.FAILED, Status.RUNNING, Status.WAITING)
_NUM_REASONS = 3
_NUM_NAMED = 8  # systems of a warning
_MAX_REASON = 240  # characters of an error message, in a warning
_MAX_NAME = 60  # characters of a system's name, in a tile


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCell:
    """One value of one system."""

    value: str = NONE
    notes: tuple[str, ...] = ()
    """Lines below the value."""
    is_best: bool = False
    is_bad: bool = False
    """Whether the notes are warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """Formatted values of one system."""

    name: str
    note: str = ""
    cells: tuple[StudyCell, ...]
    reason: str = ""
    """Why it failed."""
    is_people: bool = False
    """Whether it describes the references instead of a system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTable:
    """Systems in rows."""

    columns: tuple[str, ...]
    """After the name."""
    rows: tuple[StudyRow, ...]


_Show = Callable[[SystemRecord], StudyCell]
_Rank = Callable[[SystemRecord], float | None]
"""The lowest is best; None if there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    label: str
    show: _Show
    rank: _Rank | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySection(Section):
    """Section of a study."""

    template: ClassVar[str] = "study.html.jinja"
    kind: ClassVar[str] = "Study"

    summary: tuple[str, ...]
    warnings: tuple[Fact, ...]
    """Each with a short and a longer text."""
    tiles: tuple[Tile, ...]
    decision: tuple[str, ...]
    """The conclusions, in sentences."""
    main: StudyTable
    charts: tuple[Chart, ...]
    """Of the main systems."""
    calibrations: tuple[Fact, ...]
    growth: tuple[Chart, ...]
    augmentation: tuple[Chart, ...]
    systems: StudyTable
    settings: tuple[Fact, ...]


def study_section(store: Store, anchor: str, _: ReportConfig) -> StudySection:
    """Read the record of a study, finished or not, and build its section.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses.
    """
    study = read_study(store)
    charts = length_chart(study, anchor), score_chart(study, anchor)
    return StudySection(
        anchor=anchor,
        title=f"{last_name(store.uri)}: captioners compared on {last_name(study.dataset)}",
        summary=tuple(filter(None, _summary(study))),
        warnings=tuple(_warnings(study)),
        tiles=tuple(_tiles(study)),
        decision=tuple(study.decision),
        main=main_table(study),
        charts=tuple(chart for chart in charts if chart is not None),
        calibrations=tuple(_calibrations(study)),
        growth=growth_charts(study, anchor),
        augmentation=augmentation_charts(study, anchor),
        systems=all_table(study),
        settings=tuple(_settings(store, study)),
    )


def _summary(study: Study) -> Iterator[str]:
    yield plural(len(study.systems), "system")
    yield f"tested on the {study.split} split"
    yield _end(study)
    yield moment(study.finished_at or study.started_at)


def _end(study: Study) -> str:
    if study.end:
        return study.end
    of = f"{integer(study.count(Status.FINISHED))} of {integer(len(study.systems))} systems"
    return f"not finished: {of} so far"


def _warnings(study: Study) -> Iterator[Fact]:
    if not study.end:
        yield "The study is not finished.", "The same `raycap study` command continues it."
    failed = [system for system in study.systems if system.status is Status.FAILED]
    if failed:
        reasons = [
            f"{it.name}: {clipped(it.reason, _MAX_REASON) or 'unknown reason'}" for it in failed
        ]
        yield f"{plural(len(failed), 'system')} failed.", enumerated(reasons, _NUM_REASONS)
    past = [
        f"{it.name} from epoch {integer(it.training.overfits_since)}"
        for it in study.systems
        if it.training is not None and it.training.overfits_since is not None
    ]
    if past:
        overfits = "overfits" if len(past) == 1 else "overfit"
        yield f"{plural(len(past), 'system')} {overfits}.", enumerated(past, _NUM_NAMED)
    lacking = [f"{it.name}: {integer(it.num_failed)}" for it in study.systems if it.num_failed]
    if lacking:
        yield "Images without a caption.", enumerated(lacking, _NUM_NAMED)


def _tiles(study: Study) -> Iterator[Tile]:
    counts = [(status, study.count(status)) for status in _STATUSES]
    statuses = ", ".join(f"{integer(number)} {status}" for status, number in counts if number)
    done = f"{integer(study.count(Status.FINISHED))} of {integer(len(study.systems))}"
    yield Tile(label="systems finished", value=done, note=statuses or "no systems")
    images = integer(study.num_images) if study.num_images else NONE
    yield Tile(label="test images", value=images, note=f"of the {study.split} split, scored")
    people = study.people_words
    note = "" if people is None else f"{decimal(study.reference_mean_tokens, 1)} tokens per caption"
    yield Tile(label="words per reference", value=decimal(people, 1), note=note)
    best = study.best_system
    found = None if best is None else best.score(CIDER_D)
    if best is not None and found is not None:
        value = decimal(found.value)
        yield Tile(label="best CIDEr-D", value=value, note=clipped(best.name, _MAX_NAME))
    together = duration(math.fsum(system.wall_s for system in study.systems))
    note = f"of the last invocation; {together} for all systems"
    yield Tile(label="time", value=duration(study.wall_s), note=note)


def _calibrations(study: Study) -> Iterator[Fact]:
    """Show the effect of calibration, on the validation split."""
    for system in study.systems:
        made = system.calibration
        if made is not None:
            gaps = f"{signed(made.gap_before, 2)} \N{RIGHTWARDS ARROW} {signed(made.gap_after, 2)}"
            scores = (
                f"{decimal(made.cider_before)} \N{RIGHTWARDS ARROW} {decimal(made.cider_after)}"
            )
            yield f"{system.name}: length gap in tokens", gaps
            yield f"{system.name}: CIDEr-D", scores


def _settings(store: Store, study: Study) -> Iterator[Fact]:
    yield "output", store.uri
    yield "dataset", study.dataset
    yield "split", study.split
    yield "systems", _listed(study.systems)
    yield (
        "shares of the training images",
        ", ".join(
            share_name(share) for share in sorted({system.subset for system in study.trained})
        )
        or NONE,
    )
    yield "end", _end(study)
    yield "started", moment(study.started_at)
    if study.finished_at:
        yield "finished", moment(study.finished_at)
    yield "duration of the last invocation", duration(study.wall_s)
    yield from flat_facts(study.config)
    yield from flat_facts(study.versions, "version")


def _listed(systems: Sequence[SystemRecord]) -> str:
    return ", ".join(dict.fromkeys(system.role for system in systems)) or NONE


def main_table(study: Study) -> StudyTable:
    """Compare the main systems with each other and with the references."""
    systems = study.main
    columns = (
        _Column(label="words per caption", show=_words, rank=_far_from(study)),
        _metric(CIDER_D),
        _metric(BLEU[3]),
        *(_metric(name, has_interval=False) for name in (ROUGE_L, *_present((METEOR,), systems))),
        _Column(label="loss gap", show=_of_training(_gap)),
        _Column(label="images trained on", show=_of_training(lambda it: _count(it.num_images))),
        _Column(label="time", show=_time),
        _Column(label="training images/s", show=_of_training(lambda it: _rate(it.images_per_s))),
        _Column(label="captioning images/s", show=lambda it: _rate(it.captioning_images_per_s)),
        _Column(label="peak memory, MB", show=_of_training(_memory)),
    )
    words = StudyCell(value=decimal(study.people_words, 1), notes=_people_tokens(study))
    cells = (words, *[StudyCell()] * (len(columns) - 1))
    people = StudyRow(name="people", cells=cells, is_people=True)
    best = study.best_system
    return StudyTable(
        columns=tuple(column.label for column in columns),
        rows=(*_rows(systems, columns, best, _main_note), people),
    )


def all_table(study: Study) -> StudyTable:
    """List all systems, including those on smaller subsets or without augmentation."""
    shown = [system.scores for system in study.systems]
    others = [
        name for name in METRIC_LABELS if name not in _USUAL and any(name in it for it in shown)
    ]
    metrics = (CIDER_D, *BLEU, ROUGE_L, *_present((METEOR,), study.systems), *others)
    columns = (
        _Column(label="status", show=lambda it: StudyCell(value=it.status)),
        _Column(label="training images", show=_share),
        _Column(label="augmented", show=_augmented),
        _Column(label="words per caption", show=_words),
        *(_metric(name) for name in metrics),
        _Column(label="best epoch", show=_of_training(_epoch)),
        _Column(label="training loss", show=_of_training(lambda it: _loss(it.fitted_loss))),
        _Column(label="validation loss", show=_of_training(lambda it: _loss(it.validation_loss))),
        _Column(label="loss gap", show=_of_training(_gap)),
        _Column(label="time", show=_time),
        _Column(label="without a caption", show=_without_caption),
    )
    columns = tuple(_Column(label=column.label, show=column.show) for column in columns)
    return StudyTable(
        columns=tuple(column.label for column in columns),
        rows=tuple(_rows(study.systems, columns, None, _all_note)),
    )


def _rows(
    systems: Sequence[SystemRecord],
    columns: Sequence[_Column],
    best: SystemRecord | None,
    note: Callable[[SystemRecord, bool], str],
) -> list[StudyRow]:
    leaders = [_leaders(systems, column) for column in columns]
    return [
        StudyRow(
            name=system.name,
            note=note(system, system is best),
            cells=tuple(
                _marked(column.show(system), is_best=system.name in leading)
                for column, leading in zip(columns, leaders, strict=True)
            ),
            reason=clipped(system.reason) if system.status is Status.FAILED else "",
        )
        for system in systems
    ]


def _leaders(systems: Sequence[SystemRecord], column: _Column) -> set[str]:
    """Return the names of the best systems of a column; empty if fewer than two have a value."""
    if column.rank is None:
        return set()
    ranks = {it.name: rank for it in systems if (rank := column.rank(it)) is not None}
    least = min(ranks.values(), default=0.0)
    return {name for name, rank in ranks.items() if rank == least} if len(ranks) > 1 else set()


def _marked(cell: StudyCell, *, is_best: bool) -> StudyCell:
    return StudyCell(value=cell.value, notes=cell.notes, is_best=is_best, is_bad=cell.is_bad)


def _main_note(system: SystemRecord, is_best: bool) -> str:
    if system.status is not Status.FINISHED:
        return system.status
    return "best CIDEr-D" if is_best else ""


def _all_note(system: SystemRecord, _is_best: bool) -> str:
    return "" if system.role == system.name else system.role


def _present(names: Sequence[str], systems: Sequence[SystemRecord]) -> list[str]:
    return [name for name in names if any(system.score(name) for system in systems)]


def _metric(name: str, *, has_interval: bool = True) -> _Column:
    def show(system: SystemRecord) -> StudyCell:
        found = system.score(name)
        if found is None:
            return StudyCell()
        notes = _between(found.low, found.high, decimal) if has_interval else ()
        return StudyCell(value=decimal(found.value), notes=notes)

    def rank(system: SystemRecord) -> float | None:
        value = system.value(name)
        return None if value is None else -value

    return _Column(label=metric_label(name), show=show, rank=rank)


def _far_from(study: Study) -> _Rank:
    """Rank by the distance of the mean length from that of the references."""

    def rank(system: SystemRecord) -> float | None:
        words, people = system.value(MEAN_WORDS), study.people_words
        return None if words is None or people is None else abs(words - people)

    return rank


def _between(
    low: float | None, high: float | None, show: Callable[[float], str]
) -> tuple[str, ...]:
    if low is None or high is None or not math.isfinite(low + high):
        return ()
    return (f"{show(low)} to {show(high)}",)


def _words(system: SystemRecord) -> StudyCell:
    """Show the mean words, and below them the length gap in tokens with its interval."""
    gap = system.score(LENGTH_GAP)
    notes: tuple[str, ...] = ()
    if gap is not None:
        notes = (f"{signed(gap.value, 2)} tokens",)
        notes += _between(gap.low, gap.high, lambda value: signed(value, 2))
    return StudyCell(value=decimal(system.value(MEAN_WORDS), 1), notes=notes)


def _people_tokens(study: Study) -> tuple[str, ...]:
    if study.people_words is None:
        return ()
    return (f"{decimal(study.reference_mean_tokens, 2)} tokens",)


def _of_training(show: Callable[[TrainingFound], StudyCell]) -> _Show:
    return lambda system: StudyCell() if system.training is None else show(system.training)


def _gap(training: TrainingFound) -> StudyCell:
    since = training.overfits_since
    notes = () if since is None else ("overfits from", f"epoch {integer(since)}")
    return StudyCell(value=signed(training.gap), notes=notes, is_bad=since is not None)


def _count(number: int) -> StudyCell:
    return StudyCell(value=integer(number))


def _loss(loss: float) -> StudyCell:
    return StudyCell(value=decimal(loss))


def _epoch(training: TrainingFound) -> StudyCell:
    return StudyCell(value=f"{integer(training.best_epoch)} of {integer(training.num_epochs)}")


def _rate(images_per_s: float) -> StudyCell:
    return StudyCell(value=decimal(images_per_s or None, 1))


def _time(system: SystemRecord) -> StudyCell:
    seconds = system.wall_s
    if not math.isfinite(seconds) or seconds <= 0:
        return StudyCell()
    exact = f"{decimal(seconds, 0 if seconds >= _LONG_S else 1)} s"
    return StudyCell(value=exact, notes=(duration(seconds),) if seconds >= _LONG_S else ())


def _memory(training: TrainingFound) -> StudyCell:
    device = training.peak_device_bytes
    return StudyCell(
        value=decimal(training.peak_memory_bytes / _MB or None, 0),
        notes=(f"device {decimal(device / _MB, 0)}",) if device > 0 else (),
    )


def _share(system: SystemRecord) -> StudyCell:
    if system.training is None:
        return StudyCell(value=share_name(system.subset) if system.subset != 1 else NONE)
    count = f"{integer(system.training.num_images)} images"
    return StudyCell(value=share_name(system.subset), notes=(count,))


def _augmented(system: SystemRecord) -> StudyCell:
    if system.training is None:
        return StudyCell()
    return StudyCell(value="yes" if system.is_augmented else "no")


def _without_caption(system: SystemRecord) -> StudyCell:
    return _count(system.num_failed) if system.status is Status.FINISHED else StudyCell()
