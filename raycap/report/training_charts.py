"""The curves of one training run."""

from collections.abc import Callable

from raycap.report.curves import Chart, Curve, epoch_chart
from raycap.report.numbers import decimal, signed
from raycap.report.training_run import TrainingRun
from raycap.schema import BLEU, CIDER_D
from raycap.train.scores import MEAN_TOKENS, REFERENCE_MEAN_TOKENS
from raycap.train.state import EpochRecord
from raycap.train.watch import TREND_EPOCHS


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
