"""Charts of training runs: curves over the epochs of one run or of several."""

from collections.abc import Callable, Mapping, Sequence

from raycap.reporting.charts import Chart, Curve, epoch_chart
from raycap.reporting.numbers import decimal, signed
from raycap.reporting.svg import NUM_LINE_INKS
from raycap.results.labels import MEAN_TOKENS, METRIC_LABELS, REFERENCE_MEAN_TOKENS
from raycap.results.training import TREND_EPOCHS, EpochRecord
from raycap.schema import BLEU, CIDER_D

History = Sequence[EpochRecord]
"""The epochs of a run that have ended."""

_UNIT = "Nats per token."
_VALIDATION_SAMPLE = "Of captions generated for the validation sample."


def best_of(history: History) -> EpochRecord | None:
    """Return the epoch whose model is kept; None before the end of the first."""
    return next((record for record in reversed(history) if record.is_best), None)


def describe_trend(history: History) -> str:
    """Describe how the generalisation gap changes; empty before the end of the second epoch."""
    trend = history[-1].gap_trend if history else None
    if trend is None:
        return ""
    verb = "grows" if trend > 0 else "shrinks"
    return f"{verb} by {decimal(abs(trend), 3)} per epoch"


def training_charts(history: History, anchor: str) -> tuple[Chart, ...]:
    """Draw the curves of a run; none before the end of the first epoch."""
    if not history:
        return ()
    return (
        _loss_chart(history, anchor),
        _gap_chart(history, anchor),
        _score_chart(history, f"{anchor}-cider-plot", CIDER_D),
        _score_chart(history, f"{anchor}-bleu-plot", BLEU[3]),
        _length_chart(history, anchor),
        _rate_chart(history, anchor),
    )


def comparison_charts(histories: Mapping[str, History], anchor: str) -> tuple[Chart, ...]:
    """Draw the validation curves of several runs.

    Args:
        histories: epochs of each run, by its name.
        anchor: prefix of the ids of the drawings.
    """
    losses, scores = list[Curve](), list[Curve]()
    for number, (name, history) in enumerate(histories.items()):
        losses.append(_run_curve(number, name, history, lambda record: record.validation_loss))
        scores.append(_run_curve(number, name, history, lambda record: record.scores[CIDER_D]))
    return (
        epoch_chart(
            f"{anchor}-loss-plot",
            "Validation loss",
            f"Validation loss of {len(histories)} runs by epoch.",
            losses,
            note=f"{_UNIT} Models with different tokenizers differ in the level of their "
            "losses: compare only the shapes of their curves. Rings mark the best epochs.",
        ),
        epoch_chart(
            f"{anchor}-cider-plot",
            "CIDEr-D",
            f"CIDEr-D of generated captions of {len(histories)} runs by epoch.",
            scores,
            note=_VALIDATION_SAMPLE,
        ),
    )


def _run_curve(
    number: int, name: str, history: History, value: Callable[[EpochRecord], float]
) -> Curve:
    return _curve(
        history,
        name,
        f"line-{number % NUM_LINE_INKS}",
        value,
        is_dashed=number // NUM_LINE_INKS % 2 == 1,
        is_ringed=True,
    )


def _curve(
    history: History,
    label: str,
    ink: str,
    value: Callable[[EpochRecord], float],
    *,
    is_dashed: bool = False,
    is_ringed: bool = False,
) -> Curve:
    best = best_of(history)
    return Curve(
        label=label,
        ink=ink,
        epochs=[record.epoch for record in history],
        values=[value(record) for record in history],
        is_dashed=is_dashed,
        ringed=best.epoch if is_ringed and best else None,
    )


def _loss_chart(history: History, anchor: str) -> Chart:
    first, last = history[0], history[-1]
    description = (
        f"From the first to the last epoch, validation loss went from "
        f"{decimal(first.validation_loss)} to {decimal(last.validation_loss)}, and the loss on the "
        f"training sample from {decimal(first.fitted_loss)} to {decimal(last.fitted_loss)}."
    )
    if last.overfits_since is not None:
        description += f" The model overfits from epoch {last.overfits_since}."
    return epoch_chart(
        f"{anchor}-loss-plot",
        "Loss",
        description,
        [
            _curve(
                history,
                "training, running mean",
                "people",
                lambda record: record.train_loss,
                is_dashed=True,
            ),
            _curve(history, "training sample", "line-0", lambda record: record.fitted_loss),
            _curve(
                history,
                "validation",
                "line-1",
                lambda record: record.validation_loss,
                is_ringed=True,
            ),
        ],
        shaded_from=last.overfits_since,
        note=f"{_UNIT} The ring marks the best epoch, whose model is kept.",
    )


def _gap_chart(history: History, anchor: str) -> Chart:
    last, trend = history[-1], describe_trend(history)
    description = f"The gap is {signed(last.gap)} after the last epoch" + (
        f", and {trend}." if trend else "."
    )
    curves = [_curve(history, "gap", "line-1", lambda record: record.gap)]
    if last.gap_trend is not None:
        curves.append(_trend_curve(history[-TREND_EPOCHS:], last.gap_trend))
    return epoch_chart(
        f"{anchor}-gap-plot",
        "Generalisation gap",
        description,
        curves,
        shaded_from=last.overfits_since,
        note="Validation loss minus loss on the training sample, both measured in the same way.",
    )


def _trend_curve(recent: History, trend: float) -> Curve:
    """Return the straight line through the last epochs' gaps."""
    middle = sum(record.epoch for record in recent) / len(recent)
    mean = sum(record.gap for record in recent) / len(recent)
    return Curve(
        label="trend",
        ink="text",
        epochs=[record.epoch for record in recent],
        values=[mean + trend * (record.epoch - middle) for record in recent],
        is_dashed=True,
    )


def _score_chart(history: History, name: str, key: str) -> Chart:
    label = METRIC_LABELS[key]
    curve = _curve(history, label, "line-0", lambda record: record.scores[key], is_ringed=True)
    return epoch_chart(
        name,
        label,
        f"{label} of generated captions went from {decimal(curve.values[0])} to "
        f"{decimal(curve.values[-1])}.",
        [curve],
        note=_VALIDATION_SAMPLE,
    )


def _length_chart(history: History, anchor: str) -> Chart:
    last = history[-1].scores
    generated = _curve(history, "generated", "line-0", lambda record: record.scores[MEAN_TOKENS])
    people = _curve(
        history,
        "people",
        "people",
        lambda record: record.scores[REFERENCE_MEAN_TOKENS],
        is_dashed=True,
    )
    return epoch_chart(
        f"{anchor}-length-plot",
        "Mean caption length",
        f"After the last epoch, generated captions have {decimal(last[MEAN_TOKENS], 1)} tokens on "
        f"average, those written by people {decimal(last[REFERENCE_MEAN_TOKENS], 1)}.",
        [people, generated],
        note="Tokens per caption.",
    )


def _rate_chart(history: History, anchor: str) -> Chart:
    curve = _curve(history, "learning rate", "line-2", lambda record: record.lr)
    return epoch_chart(
        f"{anchor}-rate-plot",
        "Learning rate",
        f"It is {curve.values[-1]:.2g} at the last step.",
        [curve],
        note="At the last step of each epoch.",
    )
