"""What a training run's epochs came to, as tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raycap.reporting.numbers import NONE, decimal, integer, signed
from raycap.reporting.training_run import TrainingRun
from raycap.results.labels import LENGTH_GAP, MEAN_TOKENS, METRIC_LABELS, REFERENCE_MEAN_TOKENS
from raycap.results.training import EpochRecord
from raycap.schema import BLEU, CIDER_D, ROUGE_L

Show = Callable[[EpochRecord], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of figures."""

    columns: tuple[str, ...]
    """Their heads; the first one is that of the rows' names."""
    rows: tuple[tuple[str, ...], ...]


def best_and_last(run: TrainingRun) -> Table:
    """Put the best epoch beside the last; measures in rows."""
    chosen = [record for record in (run.best, run.last) if record is not None]
    rows = tuple((label, *map(show, chosen)) for label, show in _MEASURES)
    heads = ("", f"best, by {run.metric_label}", "last")
    return Table(columns=heads[: 1 + len(chosen)], rows=rows)


def all_epochs(run: TrainingRun) -> Table:
    """List the epochs in rows, a few measures of each."""
    rows = tuple(tuple(show(record) for _, show in _COLUMNS) for record in run.history)
    return Table(columns=tuple(label for label, _ in _COLUMNS), rows=rows)


def compared(runs: Sequence[TrainingRun], names: Sequence[str]) -> Table:
    """Put several runs in rows, each with what its best epoch came to."""
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


def _score(key: str) -> Show:
    return lambda record: decimal(record.scores[key])


_LOSSES: tuple[tuple[str, Show], ...] = (
    ("training loss", lambda record: decimal(record.train_loss)),
    ("training sample loss", lambda record: decimal(record.fitted_loss)),
    ("validation loss", lambda record: decimal(record.validation_loss)),
)
_MEASURES: tuple[tuple[str, Show], ...] = (
    ("Epoch", lambda record: integer(record.epoch)),
    ("Training loss, running mean", _LOSSES[0][1]),
    ("Loss on the training sample", _LOSSES[1][1]),
    ("Validation loss", _LOSSES[2][1]),
    ("Generalisation gap", lambda record: signed(record.gap)),
    ("Its trend an epoch", lambda record: signed(record.gap_trend)),
    *((METRIC_LABELS[key], _score(key)) for key in (CIDER_D, *BLEU, ROUGE_L)),
    ("Mean tokens", lambda record: decimal(record.scores[MEAN_TOKENS], 2)),
    ("Mean tokens of people", lambda record: decimal(record.scores[REFERENCE_MEAN_TOKENS], 2)),
    ("Length gap", lambda record: signed(record.scores[LENGTH_GAP], 2)),
    ("Learning rate", lambda record: f"{record.lr:.3g}"),
    ("Steps so far", lambda record: integer(record.num_steps)),
    ("Images trained on", lambda record: integer(record.num_images)),
    ("Images not readable", lambda record: integer(record.num_unreadable)),
    ("Images/s", lambda record: decimal(record.images_per_s, 1)),
    ("Time of training", lambda record: f"{decimal(record.train_s, 1)} s"),
    ("Time of validation", lambda record: f"{decimal(record.validation_s, 1)} s"),
)
_COLUMNS: tuple[tuple[str, Show], ...] = (
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
