"""A trial: an ordinary training run in an actor of Ray Tune, which reports each epoch.

The run has its own thread, so that the actor can stop it cleanly: Ray Tune would kill a function
that has fallen behind at any point, together with the workers that Ray Train started for it.
"""

import logging
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray
from ray.tune import Trainable

from raycap.cluster.failures import explain
from raycap.cluster.mailbox import Sender
from raycap.config import TrainConfig
from raycap.errors import RaycapError
from raycap.experiments.tuning.record import TRIALS, name_of
from raycap.experiments.tuning.space import NUM_EPOCHS, trial_config
from raycap.results.search import Params, Trial
from raycap.results.training import (
    HISTORY,
    EpochRecord,
    Metric,
    TrainingProgress,
    badness,
    read_history,
)
from raycap.runs.opening import check_claimed
from raycap.storage.stores import open_store
from raycap.training.preparing import Models
from raycap.training.run import train

logger = logging.getLogger(__name__)

OBJECTIVE = "objective"
EPOCH = "epoch"
NOTES = "notes"
FAILURE = "failure"
OVER = "over"
"""Whether the trial ended by itself; Ray Tune sets its own `done` when it stops one."""
POINT = "point"
"""Key of a trial's settings when Ray Tune does not draw them."""
_WORST = 1e30  # searchers refuse infinity
_STOP_WAIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialSpec:
    """Everything that a trial needs to know about the search."""

    dataset: str
    output: str
    base: TrainConfig
    models: Models
    fingerprint: dict[str, Any]
    """The search's fingerprint, which the output must hold."""
    known: dict[str, Trial]
    """Trials that have ended, by name: their results are reported again without a run."""
    mailbox: Any
    """The actor that knows which trials run, and whether they are to stop."""
    debug: bool


class TrialActor(Trainable):
    """Runs one trial after another."""

    _last: dict[str, Any]

    def setup(self, config: dict[str, Any], **given: TrialSpec) -> None:
        """Start the first trial."""
        self._spec = given["spec"]
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Wait for the end of an epoch or of the trial, and report it.

        The last epoch is reported with the end, so that no scheduler stops a trial that is done.
        The value is the best so far, because the best epoch's model is the one that is kept.
        """
        notes: list[str] = []
        item = self._next(notes)
        if isinstance(item, EpochRecord):
            bad = badness(item.value(self._metric), self._metric)
            self._last = {OBJECTIVE: min(self._last[OBJECTIVE], bad), EPOCH: item.epoch}
            if item.epoch < self._num_epochs:
                return {**self._last, NOTES: notes}
            item = self._next(notes)
        result = {**self._last, "done": True, OVER: True, NOTES: notes}
        if isinstance(item, BaseException):
            result[FAILURE] = str(explain(item, "set tune.retry_failed=true to run it again"))
        return result

    def _next(self, notes: list[str]) -> EpochRecord | BaseException | None:
        """Wait for the next item; collect notes meanwhile."""
        while isinstance(item := self._items.get(), str):
            notes.append(item)
        return item

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop the trial, and start another."""
        self._end()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Stop the trial."""
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        params: Params = config.get(POINT, config)
        self._items: SimpleQueue[EpochRecord | BaseException | str | None] = SimpleQueue()
        self._sender = Sender(self._spec.mailbox, name_of(params))
        self._last = {OBJECTIVE: _WORST, EPOCH: 0}
        self._metric: Metric = self._spec.base.validation.metric
        self._num_epochs: int = params.get(NUM_EPOCHS, self._spec.base.train.num_epochs)
        name = name_of(params)
        known = self._spec.known.get(name)
        for record in self._history(name) if known is None else known.history:
            self._items.put(record)
        self._thread = Thread(target=self._run, args=[params], daemon=True, name="raycap-trial")
        if known is None:
            self._thread.start()
        else:
            self._items.put(None)

    def _history(self, name: str) -> list[EpochRecord]:
        """Read the epochs of a trial that continues: the scheduler needs them too."""
        store = open_store(self._spec.output, self._spec.base.storage)
        try:
            return read_history(store.read(f"{TRIALS.folder_of(name)}{HISTORY}"))
        except RaycapError:
            return []  # there is none, or the run itself reports the error

    def _end(self) -> None:
        """Request a stop at the next step, and wait for it."""
        self._sender.stop()
        if self._thread.ident is not None:
            self._thread.join(_STOP_WAIT_S)

    def _run(self, params: Params) -> None:
        items, spec, sender, name = self._items, self._spec, self._sender, name_of(params)
        handler = _Notes(items)
        logging.getLogger("raycap").addHandler(handler)
        try:
            if ray.get(spec.mailbox.begin.remote(name)):
                raise KeyboardInterrupt  # as `check_stop` does
            check_claimed(open_store(spec.output, spec.base.storage), spec.fingerprint)
            train(
                spec.dataset,
                f"{spec.output.rstrip('/')}/{TRIALS.folder_of(name).rstrip('/')}",
                config=trial_config(spec.base, params),
                models=spec.models,
                on_progress=_Relay(items, sender),
                debug=spec.debug,
            )
            items.put(None)
        except BaseException as error:
            logger.debug("trial failed", exc_info=True)
            items.put(error)
        finally:
            logging.getLogger("raycap").removeHandler(handler)
            spec.mailbox.end.remote(name)


class _Relay:
    """Forwards ended epochs, and raises KeyboardInterrupt when a stop is requested."""

    def __init__(self, items: Any, sender: Sender) -> None:
        self._items = items
        self._sender = sender

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch_record is not None:
            self._items.put(progress.epoch_record)
        self._sender.check_stop()


class _Notes(logging.Handler):
    """Forwards warnings."""

    def __init__(self, items: Any) -> None:
        super().__init__(logging.WARNING)
        self._items = items

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a warning."""
        self._items.put(record.getMessage())
