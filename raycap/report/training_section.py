"""The section of a training run: its curves, its best and last epoch, how it ended."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.errors import ObjectNotFound
from raycap.report.blocks import Fact, Tile, flat_facts, last_name
from raycap.report.curves import Chart
from raycap.report.numbers import decimal, integer, moment, signed
from raycap.report.pictures import Picture, thumbnail
from raycap.report.training_charts import describe_trend, training_charts
from raycap.report.training_run import TrainingRun, read_run
from raycap.report.training_table import Table, all_epochs, best_and_last
from raycap.schema import BLEU, CIDER_D
from raycap.storage.base import Store
from raycap.train.overlays import ATTENTION
from raycap.train.scores import LENGTH_GAP, MEAN_TOKENS, REFERENCE_MEAN_TOKENS
from raycap.train.state import EpochRecord
from raycap.train.watch import describe_overfitting

PREVIEW = "augmentation.jpg"  # as in `train.preview`, which would load torch

_SHEET_PX = 1120  # longer side: as wide as the page, and under 0.5 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A picture that training wrote, of many images."""

    title: str
    picture: Picture
    alt: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSection:
    """What the page shows of a training run."""

    template: ClassVar[str] = "training.html.jinja"
    kind: ClassVar[str] = "Training"
    gallery: ClassVar[None] = None

    anchor: str
    title: str
    summary: tuple[str, ...]
    run: TrainingRun
    warnings: tuple[Fact, ...]
    """What a person should know first: what it is, and more of it."""
    tiles: tuple[Tile, ...]
    charts: tuple[Chart, ...]
    """None before the first epoch is over."""
    epochs: Table
    """The best and the last epoch, side by side."""
    history: Table
    """All epochs."""
    sheets: tuple[Sheet, ...]
    settings: tuple[Fact, ...]


def training_section(store: Store, anchor: str, config: ReportConfig) -> TrainingSection:
    """Read a training run's output, complete or not, and build its section.

    Raises:
        DatasetError: one of its files is damaged.
        StorageError: the store refuses.
    """
    run = read_run(store)
    finished = moment(run.outcome.finished_at) if run.outcome else moment(run.started_at)
    return TrainingSection(
        anchor=anchor,
        title=f"{run.name}: {run.kind} trained on {last_name(run.dataset)}",
        summary=tuple(filter(None, [run.end, finished])),
        run=run,
        warnings=tuple(_warnings(run)),
        tiles=tuple(_tiles(run)),
        charts=training_charts(run, anchor) if run.history else (),
        epochs=best_and_last(run),
        history=all_epochs(run),
        sheets=tuple(_sheets(store, config)),
        settings=tuple(_settings(run)),
    )


def _warnings(run: TrainingRun) -> Iterator[Fact]:
    if run.overfits_since is not None:
        losses = [record.losses for record in run.history]
        text = describe_overfitting(losses, run.overfits_since)
        yield "The model overfits.", f"{text[0].upper()}{text[1:]}."
    if run.non_finite:
        images = len(run.non_finite.get("image_ids", ()))
        suspects = list(map(str, run.non_finite.get("suspects", ())))
        alone = f"; alone, these give it too: {', '.join(suspects)}" if suspects else ""
        text = f"It was {run.end}. The step had {integer(images)} images{alone}."
        yield "The loss was not finite.", text
    elif run.outcome is None:
        yield "The run is not complete.", "The same `raycap train` command goes on with it."
    num_unreadable = run.last.num_unreadable if run.last else 0
    if num_unreadable:
        yield "Images are missing.", f"{integer(num_unreadable)} could not be read in an epoch."


def _tiles(run: TrainingRun) -> Iterator[Tile]:
    planned = f"of {integer(run.num_epochs_planned)}" if run.num_epochs_planned else ""
    yield Tile(label="epochs", value=integer(len(run.history)), note=planned)
    if run.best and run.last:
        yield from _epoch_tiles(run, run.best, run.last)
    if run.outcome:
        yield Tile(label="images/s", value=decimal(run.outcome.images_per_s, 1))


def _epoch_tiles(run: TrainingRun, best: EpochRecord, last: EpochRecord) -> Iterator[Tile]:
    yield Tile(label="best epoch", value=integer(best.epoch), note=f"by {run.metric_label}")
    scores = best.scores
    yield Tile(label="CIDEr-D", value=decimal(scores[CIDER_D], 3), note="best epoch")
    yield Tile(label="BLEU-4", value=decimal(scores[BLEU[3]], 3), note="best epoch")
    lengths = (scores[MEAN_TOKENS], scores[REFERENCE_MEAN_TOKENS])
    against = " against ".join(decimal(length, 1) for length in lengths)
    yield Tile(label="length gap", value=signed(scores[LENGTH_GAP], 1), note=against)
    yield Tile(label="generalisation gap", value=signed(last.gap, 2), note=describe_trend(run))


def _sheets(store: Store, config: ReportConfig) -> Iterator[Sheet]:
    wide = config.model_copy(update={"thumbnail_px": _SHEET_PX})
    for key, title, alt, note in (
        (
            PREVIEW,
            "Augmentation",
            "Training images in rows, each unchanged and then as augmentation changes it.",
            "Training images: first as they are, then as the first epochs see them.",
        ),
        (
            ATTENTION,
            "Attention",
            "Images, each with its caption word by word and where the model looked for each word.",
            "Where the model looked for each word of its caption (orange: most).",
        ),
    ):
        try:
            picture = thumbnail(store.read(key), wide)
        except ObjectNotFound:
            continue
        yield Sheet(title=title, picture=picture, alt=alt, note=note)


def _settings(run: TrainingRun) -> Iterator[Fact]:
    yield "output", run.address
    yield "dataset", run.dataset
    yield "end", run.end
    yield "started", moment(run.started_at)
    if run.outcome:
        yield "finished", moment(run.outcome.finished_at)
        yield "time of the last invocation", f"{decimal(run.outcome.wall_s, 1)} s"
        yield "training images", integer(run.outcome.num_images)
        yield "steps", integer(run.outcome.num_steps)
        yield "images a step", integer(run.outcome.global_batch)
        yield "captions at a time", integer(run.outcome.micro_batch)
    yield from flat_facts(run.config)
    yield from flat_facts(run.versions, "version")
