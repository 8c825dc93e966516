"""A trial: an ordinary training run in an actor of Ray Tune, told epoch by epoch.

The run goes on in a thread of its own, so that the actor can end it in good order: Ray Tune kills
a function that has fallen behind where it stands, and what Ray Train had reserved for it with it.
"""

import logging
import time
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import ray
from ray.tune import Trainable

from raycap.cluster.failures import explain
from raycap.config import TrainConfig
from raycap.errors import RaycapError
from raycap.experiments.tuning.record import TRIALS, name_of
from raycap.experiments.tuning.search import Trial
from raycap.experiments.tuning.space import NUM_EPOCHS, Params, trial_config
from raycap.runs.opening import check_claimed
from raycap.storage.stores import open_store
from raycap.training.epochs import HISTORY
from raycap.training.overfitting import Metric, badness
from raycap.training.preparing import Models
from raycap.training.run import train
from raycap.training.state import EpochRecord, read_history
from raycap.training.status import TrainingProgress

logger = logging.getLogger(__name__)

OBJECTIVE = "objective"
EPOCH = "epoch"
NOTES = "notes"
FAILURE = "failure"
OVER = "over"
"""Whether the trial ended by itself; Ray Tune sets its own `done` where it stops one."""
POINT = "point"
"""Key of a trial's settings, where Ray Tune was given them as they are."""
_WORST = 1e30  # as searchers refuse infinity
_STOP_WAIT_S = 300.0
_ASK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialSpec:
    """What every trial is told of the search."""

    dataset: str
    output: str
    base: TrainConfig
    models: Models
    fingerprint: dict[str, Any]
    """The search's fingerprint, which the output must hold."""
    known: dict[str, Trial]
    """Trials that are over, by name: they are told again and not run."""
    control: Any
    """The actor that says whether the search is to stop."""
    debug: bool


class TrialActor(Trainable):
    """Runs one trial after the other."""

    _last: dict[str, Any]

    def setup(self, config: dict[str, Any], **given: TrialSpec) -> None:
        """Begin a trial."""
        self._spec = given["spec"]
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Wait for the end of an epoch, or of the trial.

        The last epoch is told with the end: a trial that has come so far is not to be stopped.
        The best value so far is told, as the best epoch's model is the one that is kept.
        """
        notes: list[str] = []
        item = self._next(notes)
        if isinstance(item, EpochRecord):
            bad = badness(item.value(self._metric), self._metric)
            self._last = {OBJECTIVE: min(self._last[OBJECTIVE], bad), EPOCH: item.epoch}
            if item.epoch < self._num_epochs:
                return {**self._last, NOTES: notes}
            item = self._next(notes)
        told = {**self._last, "done": True, OVER: True, NOTES: notes}
        if isinstance(item, BaseException):
            told[FAILURE] = str(explain(item, "set tune.retry_failed=true to run it again"))
        return told

    def _next(self, notes: list[str]) -> EpochRecord | BaseException | None:
        """Wait for what comes next, but for notes."""
        while isinstance(item := self._items.get(), str):
            notes.append(item)
        return item

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the trial, and begin another."""
        self._end()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """End the trial."""
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        params: Params = config.get(POINT, config)
        self._items: SimpleQueue[EpochRecord | BaseException | str | None] = SimpleQueue()
        self._wants_stop = Event()
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
        """Read the epochs of a trial that goes on: what is decided of it hangs on them too."""
        store = open_store(self._spec.output, self._spec.base.storage)
        try:
            return read_history(store.read(f"{TRIALS.folder_of(name)}{HISTORY}"))
        except RaycapError:
            return []  # there is none, or the run itself tells what is wrong

    def _end(self) -> None:
        """Let the run stop at its next step, and wait until it has."""
        self._wants_stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_WAIT_S)

    def _run(self, params: Params) -> None:
        items, spec, name = self._items, self._spec, name_of(params)
        handler = _Notes(items)
        logging.getLogger("raycap").addHandler(handler)
        try:
            if ray.get(spec.control.begin.remote(name)):
                raise KeyboardInterrupt  # as below
            check_claimed(open_store(spec.output, spec.base.storage), spec.fingerprint)
            train(
                spec.dataset,
                f"{spec.output.rstrip('/')}/{TRIALS.folder_of(name).rstrip('/')}",
                config=trial_config(spec.base, params),
                models=spec.models,
                on_progress=_Relay(items, self._wants_stop, spec.control),
                debug=spec.debug,
            )
            items.put(None)
        except BaseException as error:
            logger.debug("trial failed", exc_info=True)
            items.put(error)
        finally:
            logging.getLogger("raycap").removeHandler(handler)
            spec.control.end.remote(name)


class _Relay:
    """Passes epochs on, and an order to stop back."""

    def __init__(self, items: Any, wants_stop: Event, control: Any) -> None:
        self._items = items
        self._wants_stop = wants_stop
        self._control = control
        self._was_told = False
        self._next_asked = 0.0

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch_record is not None:
            self._items.put(progress.epoch_record)
        if not self._was_told and self._is_to_stop():
            self._was_told = True
            raise KeyboardInterrupt  # as a person stops a run

    def _is_to_stop(self) -> bool:
        """Look whether the trial is to stop, or the whole search."""
        if not self._wants_stop.is_set() and time.monotonic() >= self._next_asked:
            self._next_asked = time.monotonic() + _ASK_EVERY_S
            if ray.get(self._control.wants_stop.remote()):
                self._wants_stop.set()
        return self._wants_stop.is_set()


class _Notes(logging.Handler):
    """Passes on what a person should act on."""

    def __init__(self, items: Any) -> None:
        super().__init__(logging.WARNING)
        self._items = items

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        self._items.put(record.getMessage())
