"""Progress of long work: a live bar on a terminal, periodic log lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from raycap.progress import STAGES, Progress
from raycap.text import duration

if TYPE_CHECKING:
    from raycap.results.training import EpochRecord, OnTrainingProgress, TrainingProgress

logger = logging.getLogger(__name__)

LINE_EVERY_S = 30.0
"""Seconds between two log lines without a terminal."""


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show the progress passed to the yielded function."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("starting", total=None)
            with stages_shown(lambda stage: bar.update(task, description=stage)):
                yield lambda progress: bar.update(
                    task,
                    total=progress.num_total,
                    completed=progress.num_done,
                    description=describe(progress),
                )
    else:
        yield _Lines()


@contextmanager
def stages_shown(show: Callable[[str], object]) -> Iterator[None]:
    """Show the stages of the start by a function instead of in the log."""
    logger, handler = logging.getLogger(STAGES), _StageHandler(show)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _StageHandler(logging.Handler):
    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a stage."""
        if isinstance(record.args, tuple):
            self._show(f"{record.args[0]} ...")


class _Lines:
    """Logs the first progress, then one line every LINE_EVERY_S seconds, and the last."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next or progress.num_done == progress.num_total:
            self._next = time.monotonic() + LINE_EVERY_S
            logger.info("progress %s", _line(progress))


@contextmanager
def show_training(console: Console) -> "Iterator[OnTrainingProgress]":
    """Show the training passed to the yielded function: a bar, and one line per epoch."""
    if console.is_terminal:
        with _bar(console) as bar:
            shown = _TrainingBar(bar)
            with stages_shown(shown.show_stage):
                yield shown
    else:
        yield _TrainingLines()


class _TrainingBar:
    """Moves a bar, and prints a line above it for each finished epoch."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=1.0)

    def show_stage(self, stage: str) -> None:
        """Show a stage of the start."""
        self._bar.update(self._task, description=stage)

    def __call__(self, progress: "TrainingProgress") -> None:
        if progress.epoch_record is not None:
            self._bar.console.print(describe_epoch(progress.epoch_record, progress.num_epochs))
        self._bar.update(
            self._task, completed=progress.share, description=describe_training(progress)
        )


class _TrainingLines:
    """Logs progress every LINE_EVERY_S seconds; the training loop logs the end of epochs."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: "TrainingProgress") -> None:
        if progress.epoch_record is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            logger.info("progress %s", _training_line(progress))


def describe_training(progress: "TrainingProgress") -> str:
    """Describe training as one line."""
    place = "validating" if progress.is_validating else f"step {progress.step}/{progress.num_steps}"
    return (
        f"epoch {progress.epoch}/{progress.num_epochs}  {place}  loss {_loss(progress)}  "
        f"{progress.images_per_s:.1f} images/s  ETA {duration(progress.eta_s)}"
    )


def _training_line(progress: "TrainingProgress") -> str:
    return (
        f"epoch={progress.epoch}/{progress.num_epochs} step={progress.step}/{progress.num_steps} "
        f"loss={_loss(progress)} images_per_s={progress.images_per_s:.1f} "
        f"eta={short_duration(progress.eta_s)}"
    )


def describe_epoch(record: "EpochRecord", num_epochs: int) -> str:
    """Describe a finished epoch as one line, in Rich's markup."""
    best = "  [green]best so far[/green]" if record.is_best else ""
    return (
        f"epoch {record.epoch}/{num_epochs}  train loss {record.train_loss:.3f}  "
        f"validation loss {record.validation_loss:.3f}  CIDEr-D {record.scores['cider_d']:.3f}  "
        f"length gap {record.scores['length_gap']:+z.1f}{best}"
    )


def _loss(progress: "TrainingProgress") -> str:
    return "?" if progress.loss is None else f"{progress.loss:.3f}"


def _bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
        transient=True,
    )


def describe(progress: Progress) -> str:
    """Describe progress as one line, in Rich's markup."""
    failed = f"  [red]{progress.num_failed:,} failed[/red]" if progress.num_failed else ""
    stage = f"{progress.stage}  " if progress.stage else ""
    return (
        f"{stage}{progress.num_done:,}/{progress.num_total:,}{failed}  "
        f"{progress.images_per_s:.1f} images/s  ETA {duration(progress.eta_s)}"
    )


def _line(progress: Progress) -> str:
    stage = f'stage="{progress.stage}" ' if progress.stage else ""
    return (
        f"{stage}done={progress.num_done} total={progress.num_total} failed={progress.num_failed} "
        f"images_per_s={progress.images_per_s:.1f} eta={short_duration(progress.eta_s)}"
    )


def short_duration(seconds: float | None) -> str:
    """Return a duration without a space, for log lines."""
    return duration(seconds).replace(" ", "")
