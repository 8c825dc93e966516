"""The section of a study: what to conclude, and captioners of all kinds side by side."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycap.report.blocks import Fact, Tile, flat_facts, last_name
from raycap.report.curves import Chart
from raycap.report.numbers import NONE, decimal, duration, integer, moment, signed
from raycap.report.search_table import clipped
from raycap.report.study_charts import augmentation_charts, length_chart, score_chart
from raycap.report.study_growth import growth_charts
from raycap.report.study_record import Study, StudySystem, enumerated, read_study, share_name
from raycap.report.study_table import StudyTable, all_table, main_table
from raycap.schema import CIDER_D
from raycap.storage.base import Store

_STATUSES = ("finished", "failed", "running", "waiting")
_NUM_REASONS = 3
_NUM_NAMED = 8  # systems of a warning
_MAX_REASON = 240  # letters of an error, in a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySection:
    """What the page shows of a study."""

    template: ClassVar[str] = "study.html.jinja"
    kind: ClassVar[str] = "Study"
    gallery: ClassVar[None] = None

    anchor: str
    title: str
    summary: tuple[str, ...]
    warnings: tuple[Fact, ...]
    """What a person should know first: what it is, and more of it."""
    tiles: tuple[Tile, ...]
    decision: tuple[str, ...]
    """What to conclude, in sentences."""
    main: StudyTable
    charts: tuple[Chart, ...]
    """Of the main systems."""
    calibrations: tuple[Fact, ...]
    growth: tuple[Chart, ...]
    augmentation: tuple[Chart, ...]
    systems: StudyTable
    settings: tuple[Fact, ...]


def study_section(store: Store, anchor: str) -> StudySection:
    """Read what a study tells of itself, over or not, and build its section.

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
    yield _systems(len(study.systems))
    yield f"tested on the {study.split} split"
    yield _end(study)
    yield moment(study.finished_at or study.started_at)


def _end(study: Study) -> str:
    if study.end:
        return study.end
    of = f"{integer(study.count('finished'))} of {integer(len(study.systems))} systems"
    return f"not finished: {of} so far"


def _systems(number: int) -> str:
    return "1 system" if number == 1 else f"{integer(number)} systems"


def _warnings(study: Study) -> Iterator[Fact]:
    if not study.end:
        yield "The study is not finished.", "The same `raycap study` command goes on with it."
    failed = [system for system in study.systems if system.status == "failed"]
    if failed:
        told = [
            f"{it.name}: {clipped(it.reason, _MAX_REASON) or 'no reason is known'}" for it in failed
        ]
        yield f"{_systems(len(failed))} failed.", enumerated(told, _NUM_REASONS)
    past = [
        f"{it.name} from epoch {integer(it.training.overfits_since)}"
        for it in study.systems
        if it.training is not None and it.training.overfits_since is not None
    ]
    if past:
        overfits = "overfits" if len(past) == 1 else "overfit"
        yield f"{_systems(len(past))} {overfits}.", enumerated(past, _NUM_NAMED)
    lacking = [f"{it.name}: {integer(it.num_failed)}" for it in study.systems if it.num_failed]
    if lacking:
        yield "Images without a caption.", enumerated(lacking, _NUM_NAMED)


def _tiles(study: Study) -> Iterator[Tile]:
    counts = [(status, study.count(status)) for status in _STATUSES]
    told = ", ".join(f"{integer(number)} {status}" for status, number in counts if number)
    done = f"{integer(study.count('finished'))} of {integer(len(study.systems))}"
    yield Tile(label="systems finished", value=done, note=told or "there are none")
    images = integer(study.num_images) if study.num_images else NONE
    yield Tile(label="test images", value=images, note=f"of the {study.split} split, scored")
    people = study.people_words
    note = "" if people is None else f"{decimal(study.reference_mean_tokens, 1)} tokens a caption"
    yield Tile(label="words people write", value=decimal(people, 1), note=note)
    best = study.best_system
    found = None if best is None else best.score(CIDER_D)
    if best is not None and found is not None:
        value = decimal(found.value)
        yield Tile(label="best CIDEr-D", value=value, note=clipped(best.name, _MAX_NAME))
    together = duration(math.fsum(system.wall_s for system in study.systems))
    note = f"of the last invocation; systems together {together}"
    yield Tile(label="time", value=duration(study.wall_s), note=note)


_MAX_NAME = 60  # letters of a system, in a tile


def _calibrations(study: Study) -> Iterator[Fact]:
    """Tell what calibrating did, on the validation split."""
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
            share_name(share) for share in sorted({system.subset for system in study.trained()})
        )
        or NONE,
    )
    yield "end", _end(study)
    yield "started", moment(study.started_at)
    if study.finished_at:
        yield "finished", moment(study.finished_at)
    yield "time of the last invocation", duration(study.wall_s)
    yield from flat_facts(study.config)
    yield from flat_facts(study.versions, "version")


def _listed(systems: Sequence[StudySystem]) -> str:
    return ", ".join(dict.fromkeys(system.role for system in systems)) or NONE
