"""Results of training: the history of epochs, the final record, progress.

run.json              created once: the fingerprint; a different run is refused
config.json           all settings of the last invocation, resolved
lock.json             held while a run writes
augmentation.jpg      training images, unchanged and as the first epochs see them
attention.jpg         where a `hybrid` looks, word by word, in the best epoch so far
history.jsonl         an EpochRecord per line and epoch
checkpoints/          what a run continues from; a complete run keeps the last, or none
model/                the best model so far, by validation.metric: `raycap caption --model` runs it
last/                 the model after the last epoch
tensorboard/          with train.tensorboard: an event file per epoch
nonfinite.json        the images of a step whose loss was NaN or infinite
training.json         the Training below; written last: with it, the run is complete
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError
from raycap.results.display import Displayed
from raycap.runs.records import encode_json, read_if_any
from raycap.storage.base import Store

TRAINING = "training.json"
HISTORY = "history.jsonl"
NON_FINITE = "nonfinite.json"
PREVIEW = "augmentation.jpg"
ATTENTION = "attention.jpg"

Metric = Literal["loss", "cider_d", "bleu_4", "rouge_l", "length_gap"]

TREND_EPOCHS = 3
"""Number of last epochs over which the trend of the generalisation gap is fitted."""
_NOISE_SHARE = 0.01
"""A loss that changes by a smaller share has not changed: it varies so much from epoch to epoch."""
_RISING_EPOCHS = 2
"""Epochs in a row with a higher validation loss before overfitting is reported."""
_RANKED_DIGITS = 3
"""Scores that are equal to this digit are equal: tables show no more, and the rest is chance."""
_LOWER_IS_BETTER = frozenset({"loss", "length_gap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses at the end of an epoch."""

    fitted: float
    """On the sample of the training split."""
    validation: float

    @property
    def gap(self) -> float:
        """Generalisation gap: validation loss minus loss on the training sample."""
        return self.validation - self.fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of `history.jsonl`. Losses are means over tokens, in nats."""

    epoch: int
    """Counted from 1."""
    num_steps: int
    """Steps since the start of the run."""
    num_images: int
    """Images used for training in this epoch."""
    num_unreadable: int
    """Images of this epoch that could not be read."""
    lr: float
    """Learning rate of the last step."""
    train_loss: float
    """Running mean over the epoch's steps, without label smoothing."""
    fitted_loss: float
    """On a sample of the training split, measured in the same way as validation loss."""
    validation_loss: float
    gap: float
    """Generalisation gap: `validation_loss` minus `fitted_loss`."""
    gap_trend: float | None
    """Growth of the gap per epoch, over the last TREND_EPOCHS epochs."""
    overfits_since: int | None
    """The epoch from which validation loss rises while training loss falls; see
    `overfits_since`."""
    scores: dict[str, float]
    """Of captions generated for the validation sample: `bleu_1` to `bleu_4`, `rouge_l`,
    `cider_d`, `mean_tokens`, `reference_mean_tokens`, `length_gap`."""
    is_best: bool
    """Whether no earlier epoch was better by `validation.metric`."""
    images_per_s: float
    """Of the training steps, over all workers."""
    train_s: float
    validation_s: float

    def value(self, metric: Metric) -> float:
        """Return the value of a metric; NaN if it was not measured."""
        return self.validation_loss if metric == "loss" else self.scores.get(metric, math.nan)

    def describe(self) -> str:
        """Format as a log line."""
        values = {
            "train_loss": self.train_loss,
            "fitted_loss": self.fitted_loss,
            "validation_loss": self.validation_loss,
            "gap": self.gap,
            **self.scores,
            "images_per_s": self.images_per_s,
        }
        return f"epoch={self.epoch} " + " ".join(f"{k}={v:.4g}" for k, v in values.items())

    @property
    def losses(self) -> Losses:
        """The losses that decide on overfitting."""
        return Losses(fitted=self.fitted_loss, validation=self.validation_loss)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Training(Displayed):
    """Result of a training run. In `training.json`."""

    output: str
    dataset: str
    kind: str
    end: str
    """`finished`, or `exhausted` if early stopping ended it."""
    num_images: int
    """Of the training split."""
    num_epochs: int
    """Epochs that were trained."""
    num_steps: int
    global_batch: int
    """Images per step."""
    micro_batch: int
    """Captions that a worker processes at once."""
    metric: Metric
    """What the best epoch was chosen by."""
    best: EpochRecord
    """In `model/`."""
    last: EpochRecord
    """In `last/`."""
    history: list[EpochRecord]
    """All epochs, as in `history.jsonl`."""
    overfits_since: int | None
    """The epoch from which validation loss rose while training loss fell."""
    images_per_s: float
    """Of all training steps."""
    wall_s: float
    """Seconds of the last invocation, including the start of Ray."""
    peak_memory_bytes: int = 0
    """Peak memory of the first worker's process in the last invocation."""
    peak_device_bytes: int = 0
    """Peak memory of its accelerator; 0 on a CPU."""
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a training run."""

    epoch: int
    """Counted from 1."""
    num_epochs: int
    step: int
    """Finished steps of the epoch."""
    num_steps: int
    """Steps per epoch."""
    loss: float | None
    """Running mean of the epoch, over tokens; None before its first step."""
    images_per_s: float
    """Of this invocation's training steps, over all workers. 0 before the first."""
    eta_s: float | None
    """Seconds to the end of the last epoch at this rate, without early stopping."""
    is_validating: bool = False
    epoch_record: EpochRecord | None = None
    """The record of the epoch, once, when it ends."""

    @property
    def share(self) -> float:
        """Finished share of all epochs, 0 to 1."""
        done = (self.epoch - 1) * self.num_steps + self.step
        return done / (self.num_epochs * self.num_steps)


OnTrainingProgress = Callable[[TrainingProgress], None]
"""Called from time to time during training, and at the end of each epoch."""

_TRAINING_FORM = TypeAdapter(Training)
_RECORD_FORM = TypeAdapter(EpochRecord)


def badness(value: float, metric: Metric) -> float:
    """Return a number by which values of a metric are sorted: the lowest is best, NaN is worst.

    The length gap is best where it is nearest to 0.
    """
    if math.isnan(value):
        return math.inf
    if metric in _LOWER_IS_BETTER:
        return abs(value)
    return -value


def rank(value: float, loss: float, metric: Metric) -> tuple[float, float]:
    """Return what results are sorted by: the lowest is best.

    Args:
        value: of the metric.
        loss: validation loss, which decides between equal values.
        metric: the metric.
    """
    bad = badness(value, metric)
    if metric == "loss":
        return bad, bad
    return round(bad, _RANKED_DIGITS), round(loss, _RANKED_DIGITS)


def best_epoch(values: Sequence[float], losses: Sequence[float], metric: Metric) -> int:
    """Return the best epoch by a metric, counted from 1; the first of equals. NaN is never best.

    Args:
        values: of the metric, after each epoch.
        losses: validation losses, which decide between equal values.
        metric: the metric.
    """
    ranks = [rank(*pair, metric) for pair in zip(values, losses, strict=True)]
    return ranks.index(min(ranks)) + 1


def chosen_by(
    history: Sequence[EpochRecord], best: EpochRecord, metric: Metric, label: str | None = None
) -> str:
    """Return the metric that the best epoch was chosen by; in a tie, that was validation loss."""
    value = round(best.value(metric), _RANKED_DIGITS)
    tied = [record for record in history if round(record.value(metric), _RANKED_DIGITS) == value]
    lowest = min((record.validation_loss for record in tied), default=math.inf)
    # Earlier versions took scores for equal only where their fourth digit was.
    is_by_loss = round(best.validation_loss - lowest, _RANKED_DIGITS) <= 0
    if metric == "loss" or len(tied) < 2 or not is_by_loss:
        return label or metric
    return f"validation loss, of {len(tied)} epochs with {label or metric} {value:z.3f}"


def overfits_since(epochs: Sequence[Losses]) -> int | None:
    """Return the epoch, from 1, since which validation loss rises while training loss falls.

    It is the one after the best validation loss, once two epochs in a row are worse by more than
    _NOISE_SHARE, and the loss on the training sample has fallen by more than that. None if there is
    no overfitting.
    """
    if not epochs:
        return None
    best = min(range(len(epochs)), key=lambda index: epochs[index].validation)
    recent = epochs[best + 1 :][-_RISING_EPOCHS:]
    rises = all(_differs(losses.validation, epochs[best].validation) for losses in recent)
    falls = _differs(epochs[best].fitted, epochs[-1].fitted)
    return best + 2 if len(recent) == _RISING_EPOCHS and rises and falls else None


def _differs(higher: float, lower: float) -> bool:
    return higher > lower * (1 + _NOISE_SHARE)


def judge_fit(epochs: Sequence[Losses], since: int | None) -> str:
    """Return the verdict of the overfitting watch, as a clause.

    Args:
        epochs: the losses of each epoch, one or more.
        since: the epoch since which the model overfits, as recorded; None if it does not.
    """
    last = epochs[-1]
    gap = f"generalisation gap {last.gap:+z.3f}"
    if since is not None and since >= 2:
        return describe_overfitting(epochs, since)
    if len(epochs) <= _RISING_EPOCHS:
        return f"no verdict after {len(epochs)} epoch{'s'[: len(epochs) - 1]}; {gap}"
    lowest = min(losses.validation for losses in epochs)
    # The first that is as good as the best: what follows has gained nothing.
    settled = next(i for i, it in enumerate(epochs) if not _differs(it.validation, lowest))
    if len(epochs) - 1 - settled < _RISING_EPOCHS:
        return f"no overfitting: validation loss was still falling; {gap}"
    if _differs(epochs[settled].fitted, last.fitted):
        return (
            f"no gain since epoch {settled + 1}: validation loss went from "
            f"{epochs[settled].validation:.3f} to {last.validation:.3f} while training loss fell "
            f"from {epochs[settled].fitted:.3f} to {last.fitted:.3f}; {gap}"
        )
    return f"no overfitting: both losses are steady since epoch {settled + 1}; {gap}"


def describe_overfitting(epochs: Sequence[Losses], since: int) -> str:
    """Describe since when, and by how much, a model overfits."""
    best, last = epochs[since - 2], epochs[-1]
    return (
        f"overfitting since epoch {since}: validation loss rose from {best.validation:.3f} to "
        f"{last.validation:.3f} while training loss fell from {best.fitted:.3f} to "
        f"{last.fitted:.3f}; epoch {since - 1} generalises best"
    )


def encode_history(history: Sequence[EpochRecord]) -> bytes:
    """Encode `history.jsonl`: one line per epoch."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in history).encode()


def read_history(data: bytes) -> list[EpochRecord]:
    """Read the content of `history.jsonl`.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return [_RECORD_FORM.validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise DatasetError(f"the history of a training run is damaged: {first}") from error


def write_training(store: Store, training: Training) -> None:
    """Write `training.json`, the last file of a run."""
    store.write(TRAINING, encode_json(asdict(training)))


def read_training(store: Store) -> Training | None:
    """Read `training.json`; None if the run is not complete.

    Raises:
        DatasetError: it is damaged.
    """
    return read_if_any(
        _TRAINING_FORM, store, TRAINING, "restore it, or train again in a new output"
    )
