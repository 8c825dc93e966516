"""The section of a training run: its curves, its best and last epoch, how it ended.

The curves of one training run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.errors import ObjectNotFound
from raycap.reporting.blocks import Fact, Tile, flat_facts, last_name
from raycap.reporting.curves import Chart, Curve, epoch_chart
from raycap.reporting.numbers import decimal, integer, moment, signed
from raycap.reporting.pictures import Picture, thumbnail
from raycap.reporting.training_run import TrainingRun, read_run
from raycap.reporting.training_table import Table, all_epochs, best_and_last
from raycap.results.labels import LENGTH_GAP, MEAN_TOKENS, REFERENCE_MEAN_TOKENS
from raycap.results.training import (
    ATTENTION,
    PREVIEW,
    TREND_EPOCHS,
    EpochRecord,
    describe_overfitting,
)
from raycap.schema import BLEU, CIDER_D
from raycap.storage.base import Store


def training_charts(run: TrainingRun, anchor: str) -> tuple[Chart, ...]:
    """Draw the curves of a run, of which at least one epoch is over."""
    return (
        _loss_chart(run, anchor),
        _gap_chart(run, anchor),
        _score_chart(run, f"{anchor}-cider-plot", "CIDEr-D", CIDER_D),
        _score_chart(run, f"{anchor}-bleu-plot", "BLEU-4", BLEU[3]),
        _length_chart(run, anchor),
        _rate_chart(run, anchor),
    )


def describe_trend(run: TrainingRun) -> str:
    """Say how the generalisation gap moves; empty before there are two epochs."""
    trend = run.last.gap_trend if run.last else None
    if trend is None:
        return ""
    verb = "grows" if trend > 0 else "shrinks"
    return f"{verb} by {decimal(abs(trend), 3)} an epoch"


def _curve(
    run: TrainingRun,
    label: str,
    ink: str,
    value: Callable[[EpochRecord], float],
    *,
    is_dashed: bool = False,
    is_ringed: bool = False,
) -> Curve:
    return Curve(
        label=label,
        ink=ink,
        epochs=[record.epoch for record in run.history],
        values=[value(record) for record in run.history],
        is_dashed=is_dashed,
        ringed=run.best.epoch if is_ringed and run.best else None,
    )


def _loss_chart(run: TrainingRun, anchor: str) -> Chart:
    first, last = run.history[0], run.history[-1]
    description = (
        f"From the first to the last epoch, validation loss went from "
        f"{decimal(first.validation_loss)} to {decimal(last.validation_loss)}, and the loss on the "
        f"training sample from {decimal(first.fitted_loss)} to {decimal(last.fitted_loss)}."
    )
    if run.overfits_since is not None:
        description += f" The model overfits from epoch {run.overfits_since}."
    return epoch_chart(
        f"{anchor}-loss-plot",
        "Loss",
        description,
        [
            _curve(run, "training, running mean", "people", _train_loss, is_dashed=True),
            _curve(run, "training sample", "line-0", _fitted_loss),
            _curve(run, "validation", "line-1", _validation_loss, is_ringed=True),
        ],
        shaded_from=run.overfits_since,
        note="Nats a token. The ring is the best epoch, whose model is kept.",
    )


def _gap_chart(run: TrainingRun, anchor: str) -> Chart:
    last, trend = run.history[-1], describe_trend(run)
    description = f"The gap is {signed(last.gap)} after the last epoch" + (
        f", and {trend}." if trend else "."
    )
    curves = [_curve(run, "gap", "line-1", lambda record: record.gap)]
    if last.gap_trend is not None:
        curves.append(_trend_curve(run.history[-TREND_EPOCHS:], last.gap_trend))
    return epoch_chart(
        f"{anchor}-gap-plot",
        "Generalisation gap",
        description,
        curves,
        shaded_from=run.overfits_since,
        note="Loss on validation images less that on training images, measured alike.",
    )


def _trend_curve(recent: tuple[EpochRecord, ...], trend: float) -> Curve:
    """The straight line through the last epochs' gaps."""
    middle = sum(record.epoch for record in recent) / len(recent)
    mean = sum(record.gap for record in recent) / len(recent)
    return Curve(
        label="trend",
        ink="text",
        epochs=[record.epoch for record in recent],
        values=[mean + trend * (record.epoch - middle) for record in recent],
        is_dashed=True,
    )


def _score_chart(run: TrainingRun, name: str, label: str, key: str) -> Chart:
    curve = _curve(run, label, "line-0", lambda record: record.scores[key], is_ringed=True)
    return epoch_chart(
        name,
        label,
        f"{label} of generated captions went from {decimal(curve.values[0])} to "
        f"{decimal(curve.values[-1])}.",
        [curve],
        note="Of captions generated for the validation sample.",
    )


def _length_chart(run: TrainingRun, anchor: str) -> Chart:
    last = run.history[-1].scores
    generated = _curve(run, "generated", "line-0", lambda record: record.scores[MEAN_TOKENS])
    people = _curve(
        run,
        "people",
        "people",
        lambda record: record.scores[REFERENCE_MEAN_TOKENS],
        is_dashed=True,
    )
    return epoch_chart(
        f"{anchor}-length-plot",
        "Mean caption length",
        f"Generated captions have {decimal(last[MEAN_TOKENS], 1)} tokens in the mean after the "
        f"last epoch, those of people {decimal(last[REFERENCE_MEAN_TOKENS], 1)}.",
        [people, generated],
        note="Tokens a caption.",
    )


def _rate_chart(run: TrainingRun, anchor: str) -> Chart:
    curve = _curve(run, "learning rate", "line-2", lambda record: record.lr)
    return epoch_chart(
        f"{anchor}-rate-plot",
        "Learning rate",
        f"It is {curve.values[-1]:.2g} at the last step.",
        [curve],
        note="At the last step of each epoch.",
    )


def _train_loss(record: EpochRecord) -> float:
    return record.train_loss


def _fitted_loss(record: EpochRecord) -> float:
    return record.fitted_loss


def _validation_loss(record: EpochRecord) -> float:
    return record.validation_loss


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
