"""`raycap tune`: its progress and its results on the terminal."""

import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from raycap.config import TuneConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DatasetArg,
    DebugOption,
    InitOption,
    KindOption,
    OutputArg,
    TrainSetOption,
)
from raycap.console.progress import short_duration, stages_shown
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.results.status import Status
from raycap.text import brief, duration

if TYPE_CHECKING:
    from raycap.results.search import OnSearchProgress, Search, SearchProgress, Trial


def tune(
    dataset: DatasetArg,
    output: OutputArg,
    kind: KindOption = None,
    init: InitOption = None,
    config: ConfigOption = None,
    settings: TrainSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Search for training settings on DATASET; the best model is written to OUTPUT/model.

    Each trial is a `raycap train` run with its own settings; trials that fall behind are stopped
    early. The best settings are written to OUTPUT/best.yaml. Run the same command again to continue
    an interrupted search.

    Example: `raycap tune dataset/ search/ --kind hybrid --set tune.space.train.lr='[1e-4,1e-3]'`

    Exit codes: 0 searched; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(TuneConfig, config, settings, {"kind": kind, "init": init})
        from raycap.experiments.tuning.run import tune as search

        with show_search(stderr()) as on_progress:
            found = search(dataset, output, config=resolved, on_progress=on_progress, debug=debug)
        print_search(found)


_COLOURS = {Status.RUNNING: "cyan", Status.STOPPED: "dim", Status.FAILED: "red"}
_SHOWN_REASON_CHARS = 60


def print_search(found: "Search") -> None:
    """Print the trials, best first, and what to try next."""
    from raycap.experiments.tuning.record import BEST, MODEL
    from raycap.results.shown.experiments import search_rows

    Console().print(search_table(found))
    print_rows(search_rows(found))
    output = found.output
    lines = [
        f"raycap caption YOUR_FOLDER captions/ --model {shlex.quote(f'{output}/{MODEL[:-1]}')}",
        f"raycap train {shlex.quote(found.dataset)} longer/ "
        f"--config {shlex.quote(f'{output}/{BEST}')} --set train.num_epochs=20",
        f"raycap report {shlex.quote(output)} --output search.html",
    ]
    text = "\nTry next:\n" + "\n".join(f"  {line}" for line in lines)
    Console().print(text, highlight=False, soft_wrap=True, markup=False)


def search_table(found: "Search") -> Table:
    """Build the table of trials: running ones first, then by value."""
    from raycap.results.shown.experiments import show, shown_trials

    names = short_names(found)
    table = Table("trial", *names.values(), "epochs", found.metric, "gap", "status", box=None)
    for trial in shown_trials(found):
        best = trial.best
        numbers = [
            str(len(trial.history)),
            "-" if trial.value is None else f"{trial.value:z.3f}",
            f"{best.gap:z.3f}" if best else "-",
        ]
        params = [show(trial.params.get(name)) for name in names]
        table.add_row(trial.name, *params, *numbers, _status(trial, found))
    return table


def short_names(found: "Search") -> dict[str, str]:
    """Map each searched setting to its last name where that is unique."""
    lasts = [name.rpartition(".")[2] for name in found.space]
    return {
        name: last if lasts.count(last) == 1 else name
        for name, last in zip(found.space, lasts, strict=True)
    }


def _status(trial: "Trial", found: "Search") -> str:
    colour = _COLOURS.get(trial.status)
    text = str(trial.status)
    if trial.reason:
        text += f": {brief(trial.reason, _SHOWN_REASON_CHARS)}"
    text = escape(text)
    if trial.name == found.best:
        return f"[bold green]{text}, best[/bold green]"
    return f"[{colour}]{text}[/{colour}]" if colour else text


logger = logging.getLogger(__name__)

_LOGGED_REASON_CHARS = 300


@contextmanager
def show_search(console: Console) -> "Iterator[OnSearchProgress]":
    """Show the search passed to the yielded function: a live table, or log lines."""
    if console.is_terminal:
        pace = Pace()
        with (
            Live("starting", console=console, transient=True, refresh_per_second=2) as live,
            stages_shown(live.update),
        ):
            yield lambda progress: live.update(
                Group(pace.describe(progress.search), search_table(progress.search))
            )
    else:
        pace = Pace()
        yield lambda progress: _log_trial(progress, pace)


class Pace:
    """How many trials have ended, and how long the others will take at the pace so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def describe(self, search: "Search") -> str:
        """Describe the search: `3 of 12 trials ended, 2 running, ETA 4 min`."""
        running = search.count(Status.RUNNING)
        ended = len(search.trials) - running
        text = f"{ended} of {search.num_planned} trials ended, {running} running"
        return f"{text}, ETA {duration(self.eta_s(search))}"

    def eta_s(self, search: "Search") -> float | None:
        """Return the seconds left, as if no budget or scheduler ended a trial early."""
        now, share = self._clock(), search.share
        if self._first is None:
            self._first = now, share
        started, before = self._first
        return (now - started) * (1 - share) / (share - before) if share > before else None


def _log_trial(progress: "SearchProgress", pace: Pace) -> None:
    """Log the state of a trial, and the best trial so far."""
    from raycap.results.shown.experiments import describe_params

    search, trial = progress.search, progress.trial
    if trial is None:
        return
    ended = len(search.trials) - search.count(Status.RUNNING)
    value = "none" if trial.value is None else f"{trial.value:.4g}"
    best = search.trial(search.best) if search.best else None
    told = f"{best.name}:{best.value:.4g}" if best else "none"
    reason = f' reason="{brief(trial.reason, _LOGGED_REASON_CHARS)}"' if trial.reason else ""
    logger.info(
        "trial=%s %s status=%s epochs=%d %s=%s best=%s ended=%d/%d eta=%s%s",
        trial.name,
        describe_params(trial),
        trial.status,
        len(trial.history),
        search.metric,
        value,
        told,
        ended,
        search.num_planned,
        short_duration(pace.eta_s(search)),
        reason,
    )
