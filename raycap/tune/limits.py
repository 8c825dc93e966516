"""What ends a search before it has tried everything: its budgets, and a person."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.stopper import NoopStopper, Stopper

from raycap.config import SearchConfig


class Limits(Stopper):
    """Ends the search when a budget is spent, or a person says so."""

    def __init__(
        self, search: SearchConfig, epochs: Mapping[str, int], on_end: Callable[[], None]
    ) -> None:
        """Begin to count.

        Args:
            search: the budgets.
            epochs: how far trials were before, by their names.
            on_end: called once, when the search is to end; what runs is killed when it returns.
        """
        self._search = search
        self._epochs = dict(epochs)
        self._on_end = on_end
        self._started = time.monotonic()
        self._is_spent = False
        self._was_told = False
        self.is_interrupted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Say of one trial whether it is to stop: that is the scheduler's to say."""
        del trial_id, result
        return False

    def note_epoch(self, name: str, epoch: int) -> None:
        """Take note of how far a trial is."""
        self._epochs[name] = max(epoch, self._epochs.get(name, 0))

    def stop_all(self) -> bool:
        """Whether the search is to end now."""
        if self.is_over:
            self.end_trials()
        return self.is_over

    def end_trials(self) -> None:
        """Let the trials that run end, and wait for them."""
        if not self._was_told:
            self._was_told = True
            self._on_end()

    @property
    def is_over(self) -> bool:
        """Whether a budget is spent, or a person has said so."""
        search, seconds = self._search, time.monotonic() - self._started
        num_epochs = sum(self._epochs.values())
        if search.max_total_epochs is not None and num_epochs >= search.max_total_epochs:
            self._is_spent = True
        if search.max_time_s is not None and seconds >= search.max_time_s:
            self._is_spent = True
        return self._is_spent or self.is_interrupted

    @property
    def end(self) -> str:
        """How the search ended."""
        if self.is_interrupted:
            return "interrupted"
        return "budget" if self._is_spent else "finished"

    def __reduce__(self) -> Any:
        """Let Ray Tune write its own record of the search, which nothing reads, without it."""
        return NoopStopper, ()
