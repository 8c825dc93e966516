"""Progress of the functions of the Python API where a person watches: notebooks and prompts.

A script has nobody who watches, and calls the functions as they are. At an interactive prompt the
bars of the command line appear; in a notebook a bar of HTML, which needs no widgets.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from html import escape
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from rich.text import Text

from raycap.console.progress import (
    describe,
    describe_epoch,
    describe_training,
    show_progress,
    show_training,
    stages_shown,
)
from raycap.console.study import show_study
from raycap.console.terminal import stderr
from raycap.console.tune import Pace, show_search
from raycap.progress import Progress
from raycap.results.search import SearchProgress
from raycap.results.study import StudyProgress
from raycap.results.training import TrainingProgress

P = ParamSpec("P")
R = TypeVar("R")

OnAnyProgress = Callable[[Any], None]

_ON_TERMINAL: dict[str, Callable[[Any], AbstractContextManager[OnAnyProgress]]] = {
    "train": show_training,
    "tune": show_search,
    "study": show_study,
}
"""How the progress of a function is shown on a terminal, if not by `show_progress`."""

_EVERY_S = 0.5


@cache
def with_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that shows its progress unless it is called with `on_progress`."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        if options.get("on_progress") is not None:
            return function(*arguments, **options)
        with _shown(function.__name__) as on_progress:
            options["on_progress"] = on_progress
            return function(*arguments, **options)

    return call


@contextmanager
def _shown(name: str) -> Iterator[OnAnyProgress | None]:
    """Show progress where it can be seen; None if there is no such place."""
    if _is_notebook():
        bar = _NotebookBar()
        with quiet_about_widgets(), stages_shown(bar.show_stage):
            try:
                yield bar
            finally:
                bar.clear()
    elif stderr().is_terminal:
        with _ON_TERMINAL.get(name, show_progress)(stderr()) as on_progress:
            yield on_progress
    else:
        yield None


def _is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    found: Any = sys.modules.get("IPython")
    shell = None if found is None else found.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def quiet_about_widgets() -> Iterator[None]:
    """Hide advice to install `ipywidgets`, which Ray and tqdm give when they are imported."""
    logger = logging.getLogger("ray.widgets.util")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")
            yield
    finally:
        logger.setLevel(before)


class _NotebookBar:
    """A bar of HTML below the cell, and a line for each finished epoch; the bar vanishes."""

    def __init__(self) -> None:
        # Not a dependency: without it, this process would be no kernel.
        self._ipython: Any = import_module("IPython.display")
        self._handle = self._ipython.display(self._html("starting"), display_id=True)
        self._next = 0.0
        self._pace = Pace()

    def show_stage(self, stage: str) -> None:
        """Show a stage of the start."""
        self._handle.update(self._html(stage))

    def __call__(self, progress: Any) -> None:
        """Show progress of any kind."""
        if isinstance(progress, TrainingProgress) and progress.epoch_record is not None:
            line = describe_epoch(progress.epoch_record, progress.num_epochs)
            print(_plain(line))
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            share, text = _told(progress, self._pace)
            self._handle.update(self._html(text, share))

    def clear(self) -> None:
        """Remove the bar."""
        self._handle.update(self._ipython.HTML(""))

    def _html(self, text: str, share: float | None = None) -> Any:
        value = "" if share is None else f' value="{share:.4f}"'
        return self._ipython.HTML(f"<progress{value}></progress> {escape(text)}")


def _told(progress: Any, pace: Pace) -> tuple[float | None, str]:
    """Return the finished share, if it is known, and a line of text."""
    if isinstance(progress, Progress):
        share = progress.num_done / progress.num_total if progress.num_total else None
        return share, _plain(describe(progress))
    if isinstance(progress, TrainingProgress):
        return progress.share, describe_training(progress)
    if isinstance(progress, SearchProgress):
        return progress.search.share, pace.describe(progress.search)
    assert isinstance(progress, StudyProgress)
    study = progress.study
    stages = (f"{name}: {stage}, {share:.0%}" for name, (stage, share) in progress.stages.items())
    ended = sum(
        system.name not in progress.stages and bool(system.scores) for system in study.systems
    )
    text = f"{ended} of {len(study.systems)} systems ended; {'; '.join(stages)}"
    return ended / len(study.systems), text


def _plain(marked: str) -> str:
    return Text.from_markup(marked).plain
