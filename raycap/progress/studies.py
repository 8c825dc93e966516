"""What a person sees of a study: a table of its systems, or lines where there is no terminal."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from raycap.progress import LINE_EVERY_S
from raycap.study.record import Status
from raycap.study.status import OnStudyProgress, StudyProgress
from raycap.tables.studying import study_table

logger = logging.getLogger(__name__)


@contextmanager
def show_study(console: Console) -> Iterator[OnStudyProgress]:
    """Show the study that the yielded function is told of: a table of its systems, or lines."""
    if console.is_terminal:
        with Live("starting Ray", console=console, transient=True, refresh_per_second=2) as live:
            yield lambda progress: live.update(study_table(progress.study, progress.stages))
    else:
        yield _StudyLines()


class _StudyLines:
    """Logs each system that is over, and every LINE_EVERY_S what is being made."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: StudyProgress) -> None:
        study, system = progress.study, progress.system
        done = f"{study.count(Status.FINISHED)}/{len(study.systems)}"
        if system is not None:
            logger.info("system=%s status=%s done=%s", system.name, system.status, done)
        elif progress.stages and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            for name, (stage, share) in progress.stages.items():
                logger.info('progress system=%s stage="%s" %.0f%%', name, stage, 100 * share)
