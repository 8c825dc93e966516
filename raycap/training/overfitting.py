"""The overfitting watch: what the losses of the epochs say, and when to stop.

Both losses are measured alike, so that their difference is the generalisation gap and nothing
else: on samples of the same size, of the training and of the validation split, each image
unchanged and always with the same caption, without dropout and without label smoothing, with the
weights as they are at the end of the epoch. The running mean over the training steps is told as
well, but it is no measure of fit: it lags behind, and it pays for augmentation and dropout.
"""

from collections.abc import Sequence

from raycap.results.training import TREND_EPOCHS, Losses, Metric, best_epoch

_RISING_EPOCHS = 2
"""Epochs without a better validation loss before overfitting is spoken of."""


def gap_trend(epochs: Sequence[Losses]) -> float | None:
    """Say by how much the gap grows an epoch: the slope through the last TREND_EPOCHS.

    None before there are two epochs.
    """
    gaps = [losses.gap for losses in epochs[-TREND_EPOCHS:]]
    if len(gaps) < 2:
        return None
    middle = (len(gaps) - 1) / 2
    spread = sum((x - middle) ** 2 for x in range(len(gaps)))
    return sum((x - middle) * gap for x, gap in enumerate(gaps)) / spread


def overfits_since(epochs: Sequence[Losses]) -> int | None:
    """Name the epoch, counted from 1, from which validation loss rises while training loss falls.

    It is the one after the best validation loss, once that is two epochs ago and the loss on the
    training sample has fallen further since. None: no such thing.
    """
    if not epochs:
        return None
    best = min(range(len(epochs)), key=lambda index: epochs[index].validation)
    if len(epochs) - 1 - best < _RISING_EPOCHS:
        return None
    rises = epochs[-1].validation > epochs[best].validation
    falls = epochs[-1].fitted < epochs[best].fitted
    return best + 2 if rises and falls else None


def is_exhausted(values: Sequence[float], metric: Metric, patience: int | None) -> bool:
    """Whether `patience` epochs have passed without a better value."""
    if patience is None or not values:
        return False
    return len(values) - best_epoch(values, metric) >= patience
