"""The trials of a search as a table, the best first."""

from dataclasses import dataclass

from raycap.reporting.numbers import NONE, decimal, integer, signed
from raycap.reporting.search_record import Search, SearchTrial
from raycap.reporting.search_scale import shown_params

NUM_SHOWN = 50
"""Trials of the table; the others are folded away."""

_MAX_REASON = 600  # letters of an error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial, as shown."""

    name: str
    status: str
    cells: tuple[str, ...]
    """One a column."""
    reason: str
    """Why it ended early, or failed."""
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTable:
    """The trials of a search."""

    columns: tuple[str, ...]
    """Behind name and status."""
    shown: tuple[TrialRow, ...]
    folded: tuple[TrialRow, ...]
    """Those beyond NUM_SHOWN."""


def trial_table(search: Search) -> TrialTable:
    """List all trials, the best first and the failed ones last."""
    rows = tuple(_row(search, trial) for trial in search.ranked)
    figures = ("epochs", search.metric_label, *_LOSSES[search.metric == "loss" :])
    return TrialTable(
        columns=(*search.parameters, *figures, "seconds"),
        shown=rows[:NUM_SHOWN],
        folded=rows[NUM_SHOWN:],
    )


def clipped(text: str, most: int = _MAX_REASON) -> str:
    """Shorten a text that a program wrote, which may be a whole traceback."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else f"{plain[:most]} \N{HORIZONTAL ELLIPSIS}"


def _row(search: Search, trial: SearchTrial) -> TrialRow:
    best = trial.best(search.metric)
    losses = (
        decimal(best.validation_loss) if best else NONE,
        signed(best.gap) if best else NONE,
    )
    return TrialRow(
        name=trial.name,
        status=trial.status,
        cells=(
            *shown_params(trial.params, search.parameters),
            integer(len(trial.history)),
            search.show(trial.value),
            *losses[search.metric == "loss" :],
            decimal(trial.wall_s, 1),
        ),
        reason=clipped(trial.reason),
        is_best=trial is search.best_trial,
    )


_LOSSES = ("validation loss", "gap")
