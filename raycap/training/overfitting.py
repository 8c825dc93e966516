"""The overfitting watch: signs of overfitting in the losses of epochs, and when to stop.

Both losses are measured in the same way, so that their difference is the generalisation gap and
nothing else: on samples of equal size of the training and the validation split, without
augmentation, always with the same caption per image, without dropout and label smoothing, with the
weights at the end of the epoch. The running mean over the training steps is reported as well, but
does not measure the fit: it lags behind, and includes augmentation and dropout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["loss", "cider_d", "bleu_4", "rouge_l", "length_gap"]

TREND_EPOCHS = 3
"""Epochs that the gap's trend is drawn through."""
_RISING_EPOCHS = 2
"""Epochs without a better validation loss before overfitting is reported."""
_LOWER_IS_BETTER = frozenset({"loss", "length_gap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What an epoch ended with."""

    fitted: float
    """On the sample of the training split."""
    validation: float

    @property
    def gap(self) -> float:
        """How much worse the model is on images that it has not learned from."""
        return self.validation - self.fitted


def gap_trend(epochs: Sequence[Losses]) -> float | None:
    """Return the growth of the gap per epoch: the slope through the last TREND_EPOCHS.

    None before the second epoch.
    """
    gaps = [losses.gap for losses in epochs[-TREND_EPOCHS:]]
    if len(gaps) < 2:
        return None
    middle = (len(gaps) - 1) / 2
    spread = sum((x - middle) ** 2 for x in range(len(gaps)))
    return sum((x - middle) * gap for x, gap in enumerate(gaps)) / spread


def overfits_since(epochs: Sequence[Losses]) -> int | None:
    """Return the epoch, from 1, since which validation loss rises while training loss falls.

    It is the one after the best validation loss, once that is two epochs ago and the loss on the
    training sample has fallen further since. None if there is no overfitting.
    """
    if not epochs:
        return None
    best = min(range(len(epochs)), key=lambda index: epochs[index].validation)
    if len(epochs) - 1 - best < _RISING_EPOCHS:
        return None
    rises = epochs[-1].validation > epochs[best].validation
    falls = epochs[-1].fitted < epochs[best].fitted
    return best + 2 if rises and falls else None


def describe_overfitting(epochs: Sequence[Losses], since: int) -> str:
    """Tell a person what the watch found."""
    best, last = epochs[since - 2], epochs[-1]
    return (
        f"overfitting since epoch {since}: validation loss rose from {best.validation:.3f} to "
        f"{last.validation:.3f} while training loss fell from {best.fitted:.3f} to "
        f"{last.fitted:.3f}; epoch {since - 1} generalises best"
    )


def best_epoch(values: Sequence[float], metric: Metric) -> int:
    """Find the best of the epochs by a metric, counted from 1; the first of equals.

    The length gap is best where it is nearest to 0. Values that are not numbers never are best.
    """
    return min(range(len(values)), key=lambda index: badness(values[index], metric)) + 1


def is_exhausted(values: Sequence[float], metric: Metric, patience: int | None) -> bool:
    """Whether `patience` epochs have passed without an improvement."""
    if patience is None or not values:
        return False
    return len(values) - best_epoch(values, metric) >= patience


def badness(value: float, metric: Metric) -> float:
    """Say how bad a value of a metric is: the lowest is the best, infinity is no number."""
    if math.isnan(value):
        return math.inf
    if metric in _LOWER_IS_BETTER:
        return abs(value)
    return -value
