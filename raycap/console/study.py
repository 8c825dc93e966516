"""`raycap study`: its progress and its results on the terminal."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from raycap.config import StudyConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DatasetArg,
    DebugOption,
    OutputArg,
    set_option,
)
from raycap.console.progress import LINE_EVERY_S, stages_shown
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.results.status import Status
from raycap.text import brief

if TYPE_CHECKING:
    from raycap.results.study import OnStudyProgress, Study, StudyProgress, SystemRecord


def study(
    dataset: DatasetArg,
    output: OutputArg,
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("study.retry_failed=true")] = None,
    debug: DebugOption = False,
) -> None:
    """Compare captioners of every kind on DATASET: one table, one report, a recommendation.

    Trains and scores CNN-LSTM, Transformer, hybrid and BLIP (pretrained, with calibrated length,
    and fine-tuned), with and without augmentation, on growing subsets of the training images. Run
    the same command again to continue an interrupted study.

    Example: `raycap study dataset/ study/ --config configs/study-scenes.yaml`

    Exit codes: 0 compared; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(StudyConfig, config, settings)
        from raycap.experiments.study.run import study as compare

        with show_study(stderr()) as on_progress:
            found = compare(dataset, output, config=resolved, on_progress=on_progress, debug=debug)
        print_study(found)


_COLOURS = {Status.RUNNING: "cyan", Status.WAITING: "dim", Status.FAILED: "red"}
_REASON_CHARS = 40


def print_study(found: "Study") -> None:
    """Print the systems and the recommendation."""
    from raycap.results.shown.experiments import study_rows

    Console().print(study_table(found, {}))
    print_rows(study_rows(found))


def study_table(found: "Study", stages: Mapping[str, tuple[str, float]]) -> Table:
    """Build the table of systems: scores where available, otherwise the status."""
    from raycap.results.shown.experiments import STUDY_HEADINGS, study_cells

    table = Table(*STUDY_HEADINGS, box=None)
    for system in found.systems:
        table.add_row(*study_cells(system), _state(system, found, stages))
    return table


def _state(system: "SystemRecord", found: "Study", stages: Mapping[str, tuple[str, float]]) -> str:
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


logger = logging.getLogger(__name__)


@contextmanager
def show_study(console: Console) -> "Iterator[OnStudyProgress]":
    """Show the study passed to the yielded function: a live table, or log lines."""
    if console.is_terminal:
        with (
            Live("starting", console=console, transient=True, refresh_per_second=2) as live,
            stages_shown(live.update),
        ):
            yield lambda progress: live.update(study_table(progress.study, progress.stages))
    else:
        yield _StudyLines()


class _StudyLines:
    """Logs each finished system, and the running ones every LINE_EVERY_S seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: "StudyProgress") -> None:
        study, system = progress.study, progress.system
        done = f"{study.count(Status.FINISHED)}/{len(study.systems)}"
        if system is not None:
            logger.info("system=%s status=%s done=%s", system.name, system.status, done)
        elif progress.stages and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            for name, (stage, share) in progress.stages.items():
                logger.info('progress system=%s stage="%s" %.0f%%', name, stage, 100 * share)
