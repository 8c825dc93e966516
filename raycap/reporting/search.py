"""Section of a hyperparameter search: best settings, importance of parameters, all trials."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raycap.config import ReportConfig
from raycap.errors import DatasetError
from raycap.reporting.blocks import Fact, Section, Tile, clipped, enumerated, flat_facts, last_name
from raycap.reporting.charts import Chart
from raycap.reporting.numbers import NONE, decimal, integer, moment, plural, signed
from raycap.reporting.search_charts import (
    heat_chart,
    importance_chart,
    is_wide,
    learning_chart,
    parallel_chart,
)
from raycap.reporting.search_values import (
    MIN_TRIALS,
    importances,
    metric_rule,
    setting_text,
    show,
    shown_params,
)
from raycap.results.labels import LOSS, metric_label
from raycap.results.search import SEARCH, Search, Trial, read_search
from raycap.results.status import Status
from raycap.storage.base import Store
from raycap.text import duration

NUM_SHOWN = 50
"""Trials in the main table; the others are in a collapsed one."""

_LOSSES = ("validation loss", "gap")
_ALGORITHMS = {"grid": "grid search", "random": "random search", "optuna": "Optuna search"}
_SCHEDULERS = {
    "none": "no early stopping",
    "asha": "early stopping by ASHA",
    "median": "early stopping below the median",
}
_STATUSES = (Status.FINISHED, Status.STOPPED, Status.FAILED, Status.RUNNING)
_NUM_REASONS = 3
_MAX_REASON = 240  # characters of an error message, in a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """Formatted values of one trial."""

    name: str
    status: str
    cells: tuple[str, ...]
    """One per column."""
    reason: str
    """Why it failed."""
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTable:
    """The trials of a search."""

    columns: tuple[str, ...]
    """After name and status."""
    shown: tuple[TrialRow, ...]
    folded: tuple[TrialRow, ...]
    """Trials beyond NUM_SHOWN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSection(Section):
    """Section of a hyperparameter search."""

    template: ClassVar[str] = "search.html.jinja"
    kind: ClassVar[str] = "Search"

    summary: tuple[str, ...]
    warnings: tuple[Fact, ...]
    """Each with a short and a longer text."""
    tiles: tuple[Tile, ...]
    best: tuple[Fact, ...]
    """The settings of the best trial; empty before there is one."""
    best_note: str
    parallel: Chart | None
    is_wide: bool
    """Whether the parallel coordinates need the full width."""
    charts: tuple[Chart, ...]
    why_none: str
    """Why there is no importance; empty if there is."""
    trials: TrialTable
    settings: tuple[Fact, ...]


def search_section(store: Store, anchor: str, _: ReportConfig) -> SearchSection:
    """Read the record of a search, finished or not, and build its section.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses.
    """
    search = _read(store)
    found = importances(search)
    charts = (
        learning_chart(search, anchor),
        importance_chart(found, search, anchor),
        heat_chart(search, anchor),
    )
    best = search.best_trial
    params = best.params if best else {}
    return SearchSection(
        anchor=anchor,
        title=f"{last_name(store.uri)}: {search.kind} tuned on {last_name(search.dataset)}",
        summary=tuple(filter(None, _summary(search))),
        warnings=tuple(_warnings(search)),
        tiles=tuple(_tiles(search)),
        best=tuple((name, setting_text(value)) for name, value in params.items()),
        best_note=_best_note(best),
        parallel=parallel_chart(search, anchor),
        is_wide=is_wide(search),
        charts=tuple(chart for chart in charts if chart is not None),
        why_none="" if found else _why_none(search),
        trials=trial_table(search),
        settings=tuple(_settings(store, search)),
    )


def _read(store: Store) -> Search:
    found = read_search(store)
    if found is None:
        raise DatasetError(
            f"{store.uri}: has no {SEARCH}; give the output of `raycap tune`", uri=store.uri
        )
    return found


def _best_note(best: Trial | None) -> str:
    if best is None or not best.output:
        return ""
    return f"Trial {best.name}; config.json in {best.output} has these settings in full precision."


def _summary(search: Search) -> Iterator[str]:
    yield f"{_ALGORITHMS.get(search.algorithm, search.algorithm)}"
    if search.scheduler != "none":
        yield _SCHEDULERS.get(search.scheduler, search.scheduler)
    yield _end(search)
    yield moment(search.finished_at or search.started_at)


def _end(search: Search) -> str:
    num_ended = len(search.trials) - search.count(Status.RUNNING)
    of = f" of {integer(search.num_planned)}" if search.num_planned else ""
    if search.end == "finished":
        return f"finished after {plural(num_ended, 'trial')}"
    if search.end == "budget":
        return f"ended by its budget after {integer(num_ended)}{of} trials"
    return f"not finished: {integer(num_ended)}{of} trials so far" if not search.end else search.end


def _warnings(search: Search) -> Iterator[Fact]:
    if not search.end:
        yield "The search is not finished.", "The same `raycap tune` command continues it."
    failed = [trial for trial in search.trials if trial.status is Status.FAILED]
    if failed:
        reasons = [
            f"{trial.name}: {clipped(trial.reason, _MAX_REASON) or 'unknown reason'}"
            for trial in failed
        ]
        yield f"{plural(len(failed), 'trial')} failed.", enumerated(reasons, _NUM_REASONS)


def _tiles(search: Search) -> Iterator[Tile]:
    counts = [(status, search.count(status)) for status in _STATUSES]
    statuses = ", ".join(f"{integer(number)} {status}" for status, number in counts if number)
    num_ended = len(search.trials) - search.count(Status.RUNNING)
    of = f" of {integer(search.num_planned)}" if search.num_planned else ""
    yield Tile(label="trials", value=f"{integer(num_ended)}{of}", note=statuses or "none has begun")
    best = search.best_trial
    if best:
        epoch = best.best
        note = f"epoch {integer(epoch.epoch)} of {best.name}" if epoch else best.name
        yield Tile(
            label=f"best {metric_label(search.metric)}", value=show(search, best.value), note=note
        )
    together = duration(math.fsum(trial.wall_s for trial in search.trials))
    note = f"of the last invocation; {together} for all trials"
    yield Tile(label="time", value=duration(search.wall_s), note=note)


def _why_none(search: Search) -> str:
    if not search.measured:
        return "No trial has a value yet, so there is nothing to compare."
    num_ended = integer(len(search.ended))
    return (
        f"The importance of parameters is shown once {MIN_TRIALS} trials have ended with a value; "
        f"{num_ended} have so far."
    )


def _settings(store: Store, search: Search) -> Iterator[Fact]:
    yield "output", store.uri
    yield "dataset", search.dataset
    yield "model", search.kind
    yield "algorithm", _ALGORITHMS.get(search.algorithm, search.algorithm)
    yield "scheduler", _SCHEDULERS.get(search.scheduler, search.scheduler)
    yield "metric", f"{metric_label(search.metric)}: {metric_rule(search)}"
    for name, drawn in search.space.items():
        for how, values in drawn.items():
            yield f"search {name}", f"{how}: {', '.join(map(setting_text, values))}"
    yield "end", _end(search)
    yield "started", moment(search.started_at)
    if search.finished_at:
        yield "finished", moment(search.finished_at)
    yield "duration of the last invocation", duration(search.wall_s)
    yield from flat_facts(search.config)
    yield from flat_facts(search.versions, "version")


def trial_table(search: Search) -> TrialTable:
    """List all trials, best first and failed ones last."""
    rows = tuple(_row(search, trial) for trial in search.ranked)
    figures = ("epochs", metric_label(search.metric), *_LOSSES[search.metric == LOSS :])
    return TrialTable(
        columns=(*search.parameters, *figures, "seconds"),
        shown=rows[:NUM_SHOWN],
        folded=rows[NUM_SHOWN:],
    )


def _row(search: Search, trial: Trial) -> TrialRow:
    best = trial.best
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
            show(search, trial.value),
            *losses[search.metric == LOSS :],
            decimal(trial.wall_s, 1),
        ),
        reason=clipped(trial.reason),
        is_best=trial is search.best_trial,
    )
