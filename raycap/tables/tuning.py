"""What a search came to, and how it gets on."""

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.tables.columns import print_rows
from raycap.text import brief
from raycap.tune.record import BEST, MODEL
from raycap.tune.search import Search, Status, Trial, by_value

_MOST = 20
_COLOURS = {Status.RUNNING: "cyan", Status.STOPPED: "dim", Status.FAILED: "red"}
_REASON_CHARS = 60


def print_search(found: Search) -> None:
    """Print the trials, the best first, and what to do with the best."""
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


def search_table(found: Search) -> Table:
    """Show the trials a line each: those that run, then the best of the others."""
    names = short_names(found)
    table = Table("trial", *names.values(), "epochs", found.metric, "gap", "status", box=None)
    for trial in _shown(found):
        best = trial.best
        numbers = [
            str(len(trial.history)),
            "-" if trial.value is None else f"{trial.value:.3f}",
            f"{best.gap:.3f}" if best else "-",
        ]
        params = [show(trial.params.get(name)) for name in names]
        table.add_row(trial.name, *params, *numbers, _status(trial, found))
    return table


def search_rows(found: Search) -> list[tuple[str, str]]:
    """Say what a search came to."""
    counts = [f"{found.count(it)} {it}" for it in Status if found.count(it)]
    shown = len(_shown(found))
    left_out = f"; the {shown} best are shown" if shown < len(found.trials) else ""
    rows = [("trials", f"{', '.join(counts) or 'none'} of {found.num_planned} planned{left_out}")]
    if found.end == "budget":
        rows.append(("ended", "its budget is spent; raise it to continue"))
    if found.best:
        best = found.trial(found.best)
        rows.append(("best", f"{describe_params(best)}: {found.metric} {best.value:.3f}"))
    return [*rows, ("output", found.output)]


def describe_params(trial: Trial) -> str:
    """Write a trial's settings as a person gives them."""
    return " ".join(f"{name}={show(value)}" for name, value in sorted(trial.params.items()))


def short_names(found: Search) -> dict[str, str]:
    """Give each setting that is searched its last name, if that says which it is."""
    lasts = [name.rpartition(".")[2] for name in found.space]
    return {
        name: last if lasts.count(last) == 1 else name
        for name, last in zip(found.space, lasts, strict=True)
    }


def show(value: object) -> str:
    """Write a setting's value."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(found: Search) -> Sequence[Trial]:
    metric = found.metric
    running = [trial for trial in found.trials if trial.status is Status.RUNNING]
    others = [trial for trial in found.trials if trial.status is not Status.RUNNING]
    return [*running, *by_value(others, metric)][:_MOST]  # type: ignore[arg-type]


def _status(trial: Trial, found: Search) -> str:
    colour = _COLOURS.get(trial.status)
    text = str(trial.status)
    if trial.reason:
        text += f": {brief(trial.reason, _REASON_CHARS)}"
    text = escape(text)
    if trial.name == found.best:
        return f"[bold green]{text}, best[/bold green]"
    return f"[{colour}]{text}[/{colour}]" if colour else text
