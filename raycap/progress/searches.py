"""What a person sees of a search: a table of its trials, or lines where there is no terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from raycap.tables.tuning import describe_params, search_table
from raycap.text import brief
from raycap.tune.status import OnSearchProgress, SearchProgress

logger = logging.getLogger(__name__)

_REASON_CHARS = 300


@contextmanager
def show_search(console: Console) -> Iterator[OnSearchProgress]:
    """Show the search that the yielded function is told of: a table of its trials, or lines."""
    if console.is_terminal:
        with Live("starting Ray", console=console, transient=True, refresh_per_second=2) as live:
            yield lambda progress: live.update(search_table(progress.search))
    else:
        yield _log_trial


def _log_trial(progress: SearchProgress) -> None:
    """Log what a trial has come to, and the best so far."""
    search, trial = progress.search, progress.trial
    if trial is None:
        return
    value = "none" if trial.value is None else f"{trial.value:.4g}"
    best = search.trial(search.best) if search.best else None
    told = f"{best.name}:{best.value:.4g}" if best else "none"
    reason = f' reason="{brief(trial.reason, _REASON_CHARS)}"' if trial.reason else ""
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
