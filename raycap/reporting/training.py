"""Section of a training run: its end, best and last epoch, curves, pictures.

Also the section that compares several training runs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast, get_args

from raycap.config import ReportConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.reporting.blocks import Fact, Section, Table, Tile, flat_facts, last_name
from raycap.reporting.charts import Chart
from raycap.reporting.numbers import NONE, decimal, integer, moment, signed
from raycap.reporting.pictures import Picture, thumbnail
from raycap.reporting.training_charts import (
    best_of,
    comparison_charts,
    describe_trend,
    training_charts,
)
from raycap.results.labels import (
    LENGTH_GAP,
    MEAN_TOKENS,
    METRIC_LABELS,
    REFERENCE_MEAN_TOKENS,
    metric_label,
)
from raycap.results.training import (
    ATTENTION,
    HISTORY,
    NON_FINITE,
    PREVIEW,
    EpochRecord,
    Metric,
    Training,
    chosen_by,
    describe_overfitting,
    judge_fit,
    read_history,
    read_training,
)
from raycap.runs.records import CONFIG, RUN, read_json
from raycap.schema import BLEU, CIDER_D, ROUGE_L
from raycap.storage.base import Store

_SHEET_PX = 1120  # longer side: as wide as the page, and under 0.5 MB
_Show = Callable[[EpochRecord], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A training run's output: complete, running, or stopped."""

    address: str
    dataset: str
    """Address of the dataset; of its source if the run is not complete."""
    kind: str
    metric: str
    """The metric that chooses the best epoch."""
    num_epochs_planned: int
    history: tuple[EpochRecord, ...]
    outcome: Training | None
    """None if the run is not complete."""
    non_finite: dict[str, Any] | None
    """The step whose loss was not finite; None if all were."""
    started_at: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name among other runs."""
        return last_name(self.address)

    @property
    def metric_label(self) -> str:
        """Label of the metric that chooses the best epoch."""
        return metric_label(self.metric)

    @property
    def chosen_by(self) -> str:
        """Label of the metric that chose the best epoch among those so far."""
        if self.best is None or self.metric not in get_args(Metric):
            return self.metric_label
        metric = cast(Metric, self.metric)
        return chosen_by(self.history, self.best, metric, self.metric_label)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose model is in `model/`; None before the end of the first."""
        return best_of(self.history)

    @property
    def last(self) -> EpochRecord | None:
        """The epoch that ended last; None before the end of the first."""
        return self.history[-1] if self.history else None

    @property
    def overfits_since(self) -> int | None:
        """The epoch from which validation loss rises while training loss falls."""
        return self.last.overfits_since if self.last else None

    @property
    def end(self) -> str:
        """Describes how the run ended."""
        num_done = len(self.history)
        if self.non_finite:
            step, epoch = self.non_finite.get("step"), self.non_finite.get("epoch")
            return f"stopped at step {step} of epoch {epoch}: the loss was not finite"
        if self.outcome is None:
            return f"not complete: {num_done} of {self.num_epochs_planned} epochs so far"
        if self.outcome.end == "exhausted":
            return f"stopped early after {num_done} epochs: {self.metric_label} no longer improved"
        return f"complete after {num_done} epochs"


def read_run(store: Store) -> TrainingRun:
    """Read a training run's output.

    Raises:
        DatasetError: one of its files is damaged.
        StorageError: the store refuses.
    """
    run, config = read_json(store, RUN), _read_optional(store, CONFIG) or {}
    outcome, fingerprint = read_training(store), run.get("fingerprint", {})
    return TrainingRun(
        address=store.uri,
        dataset=outcome.dataset
        if outcome
        else str(fingerprint.get("dataset", {}).get("source", "")),
        kind=str(fingerprint.get("kind", "")),
        metric=str(config.get("validation", {}).get("metric", "loss")),
        num_epochs_planned=int(config.get("train", {}).get("num_epochs", 0)),
        history=tuple(_read_history(store)),
        outcome=outcome,
        non_finite=None if outcome else _read_optional(store, NON_FINITE),
        started_at=str(run.get("created_at", "")),
        config=config,
        versions=outcome.versions if outcome else run.get("versions", {}),
    )


def _read_optional(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_json(store, key)
    except ObjectNotFound:
        return None


def _read_history(store: Store) -> list[EpochRecord]:
    """Read the epochs that have ended; none before the first has."""
    try:
        return read_history(store.read(HISTORY))
    except ObjectNotFound:
        return []
    except DatasetError as error:
        raise DatasetError(
            f"{store.address(HISTORY)}: is damaged; restore it, or train again in a new output",
            uri=store.address(HISTORY),
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A picture that training wrote, composed of many images."""

    title: str
    picture: Picture
    alt: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSection(Section):
    """Section of a training run."""

    template: ClassVar[str] = "training.html.jinja"
    kind: ClassVar[str] = "Training"

    summary: tuple[str, ...]
    run: TrainingRun
    warnings: tuple[Fact, ...]
    """Each with a short and a longer text."""
    verdict: str
    """Of the overfitting watch; empty before the end of the first epoch."""
    tiles: tuple[Tile, ...]
    charts: tuple[Chart, ...]
    """Empty before the end of the first epoch."""
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
        verdict=_verdict(run),
        tiles=tuple(_tiles(run)),
        charts=training_charts(run.history, anchor),
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
        alone = f"; each of these alone causes it too: {', '.join(suspects)}" if suspects else ""
        text = f"The run was {run.end}. The step had {integer(images)} images{alone}."
        yield "The loss was not finite.", text
    elif run.outcome is None:
        yield "The run is not complete.", "The same `raycap train` command continues it."
    num_unreadable = run.last.num_unreadable if run.last else 0
    if num_unreadable:
        yield (
            "Images are missing.",
            f"{integer(num_unreadable)} could not be read in the last epoch.",
        )


def _verdict(run: TrainingRun) -> str:
    """Return the verdict of the overfitting watch, unless a warning says the same."""
    if not run.history or run.overfits_since is not None:
        return ""
    return f"Overfitting watch: {judge_fit([it.losses for it in run.history], None)}."


def _tiles(run: TrainingRun) -> Iterator[Tile]:
    planned = f"of {integer(run.num_epochs_planned)}" if run.num_epochs_planned else ""
    yield Tile(label="epochs", value=integer(len(run.history)), note=planned)
    if run.best and run.last:
        yield from _epoch_tiles(run, run.best, run.last)
    if run.outcome:
        yield Tile(label="images/s", value=decimal(run.outcome.images_per_s, 1))


def _epoch_tiles(run: TrainingRun, best: EpochRecord, last: EpochRecord) -> Iterator[Tile]:
    yield Tile(label="best epoch", value=integer(best.epoch), note=f"by {run.chosen_by}")
    scores = best.scores
    yield Tile(label="CIDEr-D", value=decimal(scores[CIDER_D], 3), note="best epoch")
    yield Tile(label="BLEU-4", value=decimal(scores[BLEU[3]], 3), note="best epoch")
    lengths = (scores[MEAN_TOKENS], scores[REFERENCE_MEAN_TOKENS])
    against = " against ".join(decimal(length, 1) for length in lengths)
    yield Tile(label="length gap", value=signed(scores[LENGTH_GAP], 1), note=against)
    yield Tile(
        label="generalisation gap", value=signed(last.gap, 2), note=describe_trend(run.history)
    )


def _sheets(store: Store, config: ReportConfig) -> Iterator[Sheet]:
    wide = config.model_copy(update={"thumbnail_px": _SHEET_PX})
    for key, title, alt, note in (
        (
            PREVIEW,
            "Augmentation",
            "Rows of training images, each unchanged first and then augmented.",
            "Training images, unchanged in the first column, then as the first epochs see them.",
        ),
        (
            ATTENTION,
            "Attention",
            "Images with the words of their captions, and where the model looked for each word.",
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
        yield "duration of the last invocation", f"{decimal(run.outcome.wall_s, 1)} s"
        yield "training images", integer(run.outcome.num_images)
        yield "steps", integer(run.outcome.num_steps)
        yield "images per step", integer(run.outcome.global_batch)
        yield "captions per micro-batch", integer(run.outcome.micro_batch)
    yield from flat_facts(run.config)
    yield from flat_facts(run.versions, "version")


def best_and_last(run: TrainingRun) -> Table:
    """Show the best and the last epoch side by side; measures in rows."""
    chosen = [record for record in (run.best, run.last) if record is not None]
    rows = tuple((label, *map(show, chosen)) for label, show in _MEASURES)
    heads = ("", f"best, by {run.metric_label}", "last")
    return Table(columns=heads[: 1 + len(chosen)], rows=rows)


def all_epochs(run: TrainingRun) -> Table:
    """List the epochs in rows, with a few measures of each."""
    rows = tuple(tuple(show(record) for _, show in _COLUMNS) for record in run.history)
    return Table(columns=tuple(label for label, _ in _COLUMNS), rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSection(Section):
    """Comparison of several training runs."""

    template: ClassVar[str] = "comparison.html.jinja"
    kind: ClassVar[str] = "Comparison"

    summary: tuple[str, ...]
    charts: tuple[Chart, ...]
    runs: Table


def comparison_section(runs: Sequence[TrainingRun], anchor: str) -> ComparisonSection:
    """Compare the validation curves and the best epochs of training runs."""
    names = _names(runs)
    histories = {name: run.history for name, run in zip(names, runs, strict=True)}
    return ComparisonSection(
        anchor=anchor,
        title=f"{len(runs)} training runs",
        summary=tuple(dict.fromkeys(run.kind for run in runs)),
        charts=comparison_charts(histories, anchor),
        runs=compared(runs, names),
    )


def _names(runs: Sequence[TrainingRun]) -> list[str]:
    """Name runs by their folder, or by their address if two folders have the same name."""
    counts = Counter(run.name for run in runs)
    return [run.name if counts[run.name] == 1 else run.address for run in runs]


def compared(runs: Sequence[TrainingRun], names: Sequence[str]) -> Table:
    """List several runs in rows, each with the measures of its best epoch."""
    measures = [(label, show) for label, show in _COLUMNS if label in _COMPARED]
    rows = []
    for run, name in zip(runs, names, strict=True):
        figures = [show(run.best) if run.best else NONE for _, show in measures]
        since = NONE if run.overfits_since is None else integer(run.overfits_since)
        done = f"{len(run.history)} of {run.num_epochs_planned}"
        rows.append((f"{name} ({run.kind})", done, *figures, since))
    labels = ("best epoch" if label == "epoch" else label for label, _ in measures)
    columns = ("run", "epochs", *labels, "overfits from epoch")
    return Table(columns=columns, rows=tuple(rows))


def _score(key: str) -> _Show:
    return lambda record: decimal(record.scores[key])


_LOSSES: tuple[tuple[str, _Show], ...] = (
    ("training loss", lambda record: decimal(record.train_loss)),
    ("training sample loss", lambda record: decimal(record.fitted_loss)),
    ("validation loss", lambda record: decimal(record.validation_loss)),
)
_MEASURES: tuple[tuple[str, _Show], ...] = (
    ("Epoch", lambda record: integer(record.epoch)),
    ("Training loss, running mean", _LOSSES[0][1]),
    ("Loss on the training sample", _LOSSES[1][1]),
    ("Validation loss", _LOSSES[2][1]),
    ("Generalisation gap", lambda record: signed(record.gap)),
    ("Trend of the gap per epoch", lambda record: signed(record.gap_trend)),
    *((METRIC_LABELS[key], _score(key)) for key in (CIDER_D, *BLEU, ROUGE_L)),
    ("Mean tokens", lambda record: decimal(record.scores[MEAN_TOKENS], 2)),
    ("Mean tokens of people", lambda record: decimal(record.scores[REFERENCE_MEAN_TOKENS], 2)),
    ("Length gap", lambda record: signed(record.scores[LENGTH_GAP], 2)),
    ("Learning rate", lambda record: f"{record.lr:.3g}"),
    ("Steps so far", lambda record: integer(record.num_steps)),
    ("Images trained on", lambda record: integer(record.num_images)),
    ("Unreadable images", lambda record: integer(record.num_unreadable)),
    ("Images/s", lambda record: decimal(record.images_per_s, 1)),
    ("Training time", lambda record: f"{decimal(record.train_s, 1)} s"),
    ("Validation time", lambda record: f"{decimal(record.validation_s, 1)} s"),
)
_COLUMNS: tuple[tuple[str, _Show], ...] = (
    ("epoch", lambda record: integer(record.epoch)),
    *_LOSSES,
    ("gap", lambda record: signed(record.gap)),
    ("CIDEr-D", _score(CIDER_D)),
    ("BLEU-4", _score(BLEU[3])),
    ("mean tokens", lambda record: decimal(record.scores[MEAN_TOKENS], 1)),
    ("length gap", lambda record: signed(record.scores[LENGTH_GAP], 1)),
    ("learning rate", lambda record: f"{record.lr:.3g}"),
)
_COMPARED = ("epoch", "validation loss", "gap", "CIDEr-D", "BLEU-4", "length gap")
