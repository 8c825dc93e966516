"""How far a run is: what a checkpoint holds besides tensors, and the history of its epochs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError
from raycap.training.overfitting import Losses, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of `history.jsonl`. Losses are means over tokens, in nats."""

    epoch: int
    """Counted from 1."""
    num_steps: int
    """Steps of the run so far."""
    num_images: int
    """Images that were trained on in this epoch."""
    num_unreadable: int
    """Images that should have been, and could not be read."""
    lr: float
    """Learning rate of the last step."""
    train_loss: float
    """Running mean over the epoch's steps, without label smoothing; see `train.watch`."""
    fitted_loss: float
    """On a sample of the training split, measured as validation is."""
    validation_loss: float
    gap: float
    """Generalisation gap: validation less fitted."""
    gap_trend: float | None
    """Growth of the gap an epoch, over the last epochs."""
    overfits_since: int | None
    """The epoch from which validation loss rises while training loss falls."""
    scores: dict[str, float]
    """Of captions generated for the validation sample: `bleu_1` to `bleu_4`, `rouge_l`,
    `cider_d`, `mean_tokens`, `reference_mean_tokens`, `length_gap`."""
    is_best: bool
    """Whether no epoch before was better by `validation.metric`."""
    images_per_s: float
    """Of the training steps, over all workers."""
    train_s: float
    validation_s: float

    def value(self, metric: Metric) -> float:
        """Look up what the best epoch is chosen by."""
        return self.validation_loss if metric == "loss" else self.scores[metric]

    def describe(self) -> str:
        """Write it as a log line."""
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
        """What the watch looks at."""
        return Losses(fitted=self.fitted_loss, validation=self.validation_loss)


@dataclass(slots=True, kw_only=True)
class State:
    """Position of a training run."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps done in the epoch."""
    num_steps: int = 0
    """Steps done in all epochs."""
    max_captions: int
    """Maximum captions per micro-batch."""
    loss_sum: float = 0.0
    """Sum over the epoch's steps, as are the numbers below."""
    num_tokens: int = 0
    num_images: int = 0
    num_unreadable: int = 0
    train_s: float = 0.0
    """Seconds, over all invocations."""
    history: list[EpochRecord] = field(default_factory=list)

    def end_epoch(self, record: EpochRecord) -> None:
        """Advance to the next epoch."""
        self.history.append(record)
        self.epoch += 1
        self.step = self.num_tokens = self.num_images = self.num_unreadable = 0
        self.loss_sum = self.train_s = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values; floats keep every digit."""
        return asdict(self)


_FORM = TypeAdapter(State)
_RECORD_FORM = TypeAdapter(EpochRecord)


def read_state(values: dict[str, Any]) -> State:
    """Read the output of `State.to_json`.

    Raises:
        DatasetError: the values are not a state.
    """
    try:
        return _FORM.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(f"{place}: {first['msg']}") from error


def encode_history(history: Sequence[EpochRecord]) -> bytes:
    """Encode `history.jsonl`: a line an epoch."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in history).encode()


def read_history(data: bytes) -> list[EpochRecord]:
    """Read what `encode_history` gave.

    Raises:
        DatasetError: it is something else.
    """
    try:
        return [_RECORD_FORM.validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise DatasetError(f"the history of a training run is damaged: {error}") from error
