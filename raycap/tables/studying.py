"""A study, as it gets on and as it came out."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.report.numbers import duration
from raycap.schema import BLEU, CIDER_D
from raycap.study.record import REPORT, SUMMARY, Status, Study, SystemRecord
from raycap.tables.columns import print_rows
from raycap.text import brief

_COLOURS = {Status.RUNNING: "cyan", Status.WAITING: "dim", Status.FAILED: "red"}
_REASON_CHARS = 40


def print_study(found: Study) -> None:
    """Print the systems, and what to decide by."""
    Console().print(study_table(found, {}))
    rows = [
        ("people", f"{found.reference_mean_words:.1f} words on {found.num_images:,} test images"),
        *(("decide" if place == 0 else "", line) for place, line in enumerate(found.decision)),
        ("time", duration(found.wall_s)),
        ("report", f"{found.output}/{REPORT}"),
        ("summary", f"{found.output}/{SUMMARY}"),
    ]
    print_rows(rows)


def study_table(found: Study, stages: Mapping[str, tuple[str, float]]) -> Table:
    """Show a line a system: its figures where it is scored, otherwise how it is."""
    table = Table("system", "words", "CIDEr-D", "BLEU-4", "gap", "overfits", "time", "", box=None)
    for system in found.systems:
        table.add_row(*_cells(system), _state(system, found, stages))
    return table


def _cells(system: SystemRecord) -> list[str]:
    scores, training = system.scores, system.training
    since = training.overfits_since if training else None
    return [
        system.name,
        *(_value(system, name, digits) for name, digits in _SCORES),
        f"{training.gap:+.3f}" if training else "-",
        f"epoch {since}" if since else "-",
        duration(system.wall_s) if scores or system.status is Status.FINISHED else "-",
    ]


_SCORES = (("mean_words", 1), (CIDER_D, 3), (BLEU[-1], 3))


def _value(system: SystemRecord, name: str, digits: int) -> str:
    score = system.scores.get(name)
    return "-" if score is None else f"{score.value:.{digits}f}"


def _state(system: SystemRecord, found: Study, stages: Mapping[str, tuple[str, float]]) -> str:
    if system.name in stages:
        stage, share = stages[system.name]
        return f"[cyan]{escape(stage)}, {share:.0%}[/cyan]"
    if system.name == found.best:
        return "[bold green]best[/bold green]"
    if system.scores:
        return ""
    reason = f": {brief(system.reason, _REASON_CHARS)}" if system.reason else ""
    text = escape(f"{system.status}{reason}")
    colour = _COLOURS.get(system.status)
    return f"[{colour}]{text}[/{colour}]" if colour else text
