"""The overfitting watch: signs of overfitting in the losses of epochs, and when to stop.

Both losses are measured in the same way, so that their difference is the generalisation gap and
nothing else: on samples of equal size of the training and the validation split, without
augmentation, always with the same caption per image, without dropout and label smoothing, with the
weights at the end of the epoch. The running mean over the training steps is reported as well, but
does not measure the fit: it lags behind, and includes augmentation and dropout.
"""

from collections.abc import Sequence

from raycap.results.training import TREND_EPOCHS, Losses, Metric, best_epoch

_RISING_EPOCHS = 2
"""Epochs without a better validation loss before overfitting is reported."""


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


def is_exhausted(values: Sequence[float], metric: Metric, patience: int | None) -> bool:
    """Whether `patience` epochs have passed without an improvement."""
    if patience is None or not values:
        return False
    return len(values) - best_epoch(values, metric) >= patience
