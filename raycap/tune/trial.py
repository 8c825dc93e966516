"""A trial: an ordinary training run in an actor of Ray Tune, told epoch by epoch.

The run goes on in a thread of its own, so that the actor can end it in good order: Ray Tune kills
a function that has fallen behind where it stands, and what Ray Train had reserved for it with it.
"""

import logging
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import ray
from ray.tune import Trainable

from raycap.config import TrainConfig
from raycap.errors import ConfigError, ObjectNotFound
from raycap.failures import explain
from raycap.records import read_json
from raycap.storage.stores import open_store
from raycap.train.preparing import Models
from raycap.train.run import train
from raycap.train.state import EpochRecord
from raycap.train.status import TrainingProgress
from raycap.train.watch import Metric, badness
from raycap.tune.record import RUN, Trial, folder_of, name_of
from raycap.tune.space import Params, trial_config

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
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialSpec:
    """What every trial is told of the search."""

    dataset: str
    output: str
    base: TrainConfig
    models: Models
    mark: dict[str, Any]
    """The search's fingerprint, which must stand in the output."""
    known: dict[str, Trial]
    """Trials that are over, by name: they are told again and not run."""
    control: Any
    """The actor that says whether the search is to stop."""
    debug: bool


class Control:
    """Says whether the search is to stop; an actor."""

    def __init__(self) -> None:
        self._wants_stop = False

    def stop(self) -> None:
        """Let all trials stop at their next step."""
        self._wants_stop = True

    def wants_stop(self) -> bool:
        """Answer a trial."""
        return self._wants_stop


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
        """
        notes: list[str] = []
        item = self._next(notes)
        if isinstance(item, EpochRecord):
            value = item.value(self._metric)
            self._last = {OBJECTIVE: min(_WORST, badness(value, self._metric)), EPOCH: item.epoch}
            if item.epoch < self._spec.base.train.num_epochs:
                return {**self._last, NOTES: notes}
            item = self._next(notes)
        told = {**self._last, "done": True, OVER: True, NOTES: notes}
        if isinstance(item, BaseException):
            told[FAILURE] = str(explain(item, "set tune.retry_failed=true to run it again"))
        return told

    def _next(self, notes: list[str]) -> EpochRecord | BaseException | None:
        """Wait for what comes next; meanwhile, look whether the search is to stop."""
        while True:
            try:
                item = self._items.get(timeout=_LOOK_EVERY_S)
            except Empty:
                if ray.get(self._spec.control.wants_stop.remote()):
                    self._wants_stop.set()
                continue
            if not isinstance(item, str):
                return item
            notes.append(item)

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
        known = self._spec.known.get(name_of(params))
        if known is not None:
            for record in known.history:
                self._items.put(record)
            self._items.put(None)
        self._thread = Thread(target=self._run, args=[params], daemon=True, name="raycap-trial")
        if known is None:
            self._thread.start()

    def _end(self) -> None:
        """Let the run stop at its next step, and wait until it has."""
        self._wants_stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_WAIT_S)

    def _run(self, params: Params) -> None:
        items, spec = self._items, self._spec
        handler = _Notes(items)
        logging.getLogger("raycap").addHandler(handler)
        try:
            _check_output(spec)
            train(
                spec.dataset,
                f"{spec.output.rstrip('/')}/{folder_of(name_of(params)).rstrip('/')}",
                config=trial_config(spec.base, params),
                models=spec.models,
                on_progress=_Relay(items, self._wants_stop),
                debug=spec.debug,
            )
            items.put(None)
        except BaseException as error:
            logger.debug("trial failed", exc_info=True)
            items.put(error)
        finally:
            logging.getLogger("raycap").removeHandler(handler)


class _Relay:
    """Passes epochs on, and an order to stop back."""

    def __init__(self, items: Any, wants_stop: Event) -> None:
        self._items = items
        self._wants_stop = wants_stop
        self._was_told = False

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch_record is not None:
            self._items.put(progress.epoch_record)
        if self._wants_stop.is_set() and not self._was_told:
            self._was_told = True
            raise KeyboardInterrupt  # as a person stops a run


class _Notes(logging.Handler):
    """Passes on what a person should act on."""

    def __init__(self, items: Any) -> None:
        super().__init__(logging.WARNING)
        self._items = items

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        self._items.put(record.getMessage())


def _check_output(spec: TrialSpec) -> None:
    """Make sure that this node sees the output that the driver has claimed."""
    store = open_store(spec.output, spec.base.storage)
    try:
        if read_json(store, RUN).get("fingerprint") == spec.mark:
            return
    except ObjectNotFound:
        pass
    raise ConfigError(
        f"{spec.output}: not the same folder on every node of the cluster; give an output that "
        "all nodes share, or s3://bucket/prefix"
    )
