"""`raycap tune`: its progress and its results on the terminal."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
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
    SetOption,
)
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.results.status import Status
from raycap.text import brief

if TYPE_CHECKING:
    from raycap.results.search import OnSearchProgress, Search, SearchProgress, Trial


def tune(
    dataset: DatasetArg,
    output: OutputArg,
    model: KindOption = None,
    init: InitOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Search training settings on DATASET; the best model is written to OUTPUT/model.

    Each trial is a `raycap train` run with its own settings; poor trials are stopped early.
    OUTPUT/best.yaml holds the best settings. Run the same command again to continue an interrupted
    search.

    Example: `raycap tune dataset/ search/ --model hybrid --set tune.space.train.lr='[1e-4,1e-3]'`

    Exit codes: 0 searched; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        chosen = list(settings or [])
        chosen += [f"kind={model}"] if model is not None else []
        chosen += [f"init={init}"] if init is not None else []
        resolved = load_config(TuneConfig, config, chosen)
        from raycap.experiments.tuning.run import tune as search

        with show_search(stderr()) as on_progress:
            found = search(dataset, output, config=resolved, on_progress=on_progress, debug=debug)
        print_search(found)


_MAX_ROWS = 20
_COLOURS = {Status.RUNNING: "cyan", Status.STOPPED: "dim", Status.FAILED: "red"}
_SHOWN_REASON_CHARS = 60


def print_search(found: "Search") -> None:
    """Print the trials, best first, and what to try next."""
    from raycap.experiments.tuning.record import BEST, MODEL

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
    names = short_names(found)
    table = Table("trial", *names.values(), "epochs", found.metric, "gap", "status", box=None)
    for trial in _shown(found):
        best = trial.best
        numbers = [
            str(len(trial.history)),
            "-" if trial.value is None else f"{trial.value:z.3f}",
            f"{best.gap:z.3f}" if best else "-",
        ]
        params = [show(trial.params.get(name)) for name in names]
        table.add_row(trial.name, *params, *numbers, _status(trial, found))
    return table


def search_rows(found: "Search") -> list[tuple[str, str]]:
    """Return the summary of a search as names and values."""
    counts = [f"{found.count(it)} {it}" for it in Status if found.count(it)]
    shown = len(_shown(found))
    left_out = f"; the {shown} best are shown" if shown < len(found.trials) else ""
    rows = [("trials", f"{', '.join(counts) or 'none'} of {found.num_planned} planned{left_out}")]
    if found.end == "budget":
        rows.append(("ended", "budget reached; raise it to continue"))
    if found.best:
        best = found.trial(found.best)
        rows.append(("best", f"{describe_params(best)}: {found.metric} {best.value:z.3f}"))
    return [*rows, ("output", found.output)]


def describe_params(trial: "Trial") -> str:
    """Format a trial's settings as `name=value`."""
    return " ".join(f"{name}={show(value)}" for name, value in sorted(trial.params.items()))


def short_names(found: "Search") -> dict[str, str]:
    """Map each searched setting to its last name where that is unique."""
    lasts = [name.rpartition(".")[2] for name in found.space]
    return {
        name: last if lasts.count(last) == 1 else name
        for name, last in zip(found.space, lasts, strict=True)
    }


def show(value: object) -> str:
    """Format a setting's value."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(found: "Search") -> "Sequence[Trial]":
    from raycap.results.search import by_value

    metric = found.metric
    running = [trial for trial in found.trials if trial.status is Status.RUNNING]
    others = [trial for trial in found.trials if trial.status is not Status.RUNNING]
    return [*running, *by_value(others, metric)][:_MAX_ROWS]


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
        with Live("starting Ray", console=console, transient=True, refresh_per_second=2) as live:
            yield lambda progress: live.update(search_table(progress.search))
    else:
        yield _log_trial


def _log_trial(progress: "SearchProgress") -> None:
    """Log the state of a trial, and the best trial so far."""
    search, trial = progress.search, progress.trial
    if trial is None:
        return
    value = "none" if trial.value is None else f"{trial.value:.4g}"
    best = search.trial(search.best) if search.best else None
    told = f"{best.name}:{best.value:.4g}" if best else "none"
    reason = f' reason="{brief(trial.reason, _LOGGED_REASON_CHARS)}"' if trial.reason else ""
    logger.info(
        "trial=%s %s status=%s epochs=%d %s=%s best=%s%s",
        trial.name,
        describe_params(trial),
        trial.status,
        len(trial.history),
        search.metric,
        value,
        told,
        reason,
    )
