"""Running the workers on the cluster, by Ray Train, and following what they tell.

Which failures of workers are worth another try.
"""

import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from raycap.cluster.failures import explain, find_error
from raycap.cluster.start import start_here
from raycap.errors import RunStopped
from raycap.storage.base import WriteLock
from raycap.training.board import Board, Posted
from raycap.training.loop import Assignment, End, work
from raycap.training.preparing import Job
from raycap.training.resources import Resources
from raycap.training.state import State, read_state
from raycap.training.status import OnTrainingProgress

_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
)
"""Errors that a lost worker or node never causes: the same would happen again."""


class StopAtFaults(UserCallback):
    """Keeps Ray Train from starting workers anew after an error that would only come again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise such an error: Ray Train gives up at an exception out of here."""
        del run_context
        for error in worker_exceptions.values():
            ours = find_error(error)
            if ours is not None:
                raise ours
            if isinstance(error, _FAULTS):
                raise error


logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.3
_REMEDY = "run the same command to continue from the last checkpoint"

# Ray's annotations are those of the first version of Ray Train.
_Trainer: Any = TorchTrainer
_RunConfig: Any = RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the workers came to."""

    state: State
    end: End
    peak_memory_bytes: int
    """Of the first worker's process."""
    peak_device_bytes: int
    """Of its accelerator."""


class Fitting:
    """One invocation of Ray Train.

    It runs in a thread of its own: it does not return before the end, and takes Ctrl-C for itself
    where it can. The driver's own thread looks at the board and at the lock meanwhile.
    """

    def __init__(self, job: Job, resources: Resources, *, debug: bool) -> None:
        self._job = job
        self._resources = resources
        self._debug = debug
        self._board = start_here(Board)
        # Not the thread's own `is_alive`: before Python 3.13, an interrupt while joining a thread
        # makes it look dead.
        self._has_ended = Event()
        self._error: BaseException | None = None
        self._result: dict[str, Any] = {}

    def follow(self, lock: WriteLock, on_progress: OnTrainingProgress) -> Outcome:
        """Train to the end, and pass on what the workers tell meanwhile.

        Raises:
            RaycapError: as a worker raised it.
            RunConflict: another writer has taken over the output.
            RunStopped: the run was interrupted, or workers died too often.
        """
        thread = Thread(target=self._fit, daemon=True, name="raycap-train")
        with warnings.catch_warnings():
            # Ray Train copies Ray Data's settings, those included that Ray warns of setting.
            warnings.filterwarnings("ignore", r"`use_\w+` is deprecated", DeprecationWarning)
            thread.start()
            try:
                self._watch(lock, on_progress)
            except BaseException:
                self._board.stop.remote()
                raise
        self._relay(on_progress)
        if self._error is not None:
            raise explain(self._error, _REMEDY) from self._error
        outcome = Outcome(
            state=read_state(self._result["state"]),
            end=End(self._result["end"]),
            peak_memory_bytes=self._result["peak_memory_bytes"],
            peak_device_bytes=self._result["peak_device_bytes"],
        )
        if outcome.end is End.INTERRUPTED:
            raise RunStopped(self._describe_stop(outcome.state))
        return outcome

    def _watch(self, lock: WriteLock, on_progress: OnTrainingProgress) -> None:
        """Pass on what the workers tell until they end, which the first interrupt asks them to."""
        is_stopping = False
        while not self._has_ended.is_set():
            try:
                self._has_ended.wait(_LOOK_EVERY_S)
                lock.check()
                self._relay(on_progress)
            except KeyboardInterrupt:
                if is_stopping:
                    raise RunStopped(self._describe_stop()) from None
                logger.warning("stopping at the next step: interrupt again not to wait for it")
                is_stopping = True
                self._board.stop.remote()

    def _fit(self) -> None:
        # Ray Train looks at its workers every 2 s by default, at their end too.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        with tempfile.TemporaryDirectory(prefix="raycap-train-") as folder:
            try:
                self._result = self._trainer(folder).fit().return_value
            except BaseException as error:  # noqa: BLE001  raised again in the driver's own thread
                self._error = error  # SystemExit among them: so Ray ends where its cluster does
            finally:
                self._has_ended.set()

    def _trainer(self, folder: str) -> Any:
        engine, resources = self._job.config.engine, self._resources
        assignment = Assignment(
            job=self._job,
            board=self._board,
            torch_threads=resources.torch_threads,
            debug=self._debug,
        )
        return _Trainer(
            work,
            train_loop_config={"assignment": assignment},
            scaling_config=ScalingConfig(
                num_workers=engine.num_workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={
                    "CPU": resources.cpus_per_worker,
                    "GPU": resources.gpus_per_worker,
                },
            ),
            run_config=_RunConfig(
                name="train",
                # Nothing of worth comes here: checkpoints go to the output, see `checkpoints`.
                storage_path=folder,
                failure_config=FailureConfig(max_failures=engine.max_failures),
                callbacks=[StopAtFaults()],
                logging_config=LoggingConfig(log_level="INFO" if self._debug else "CRITICAL"),
            ),
        )

    def _relay(self, on_progress: OnTrainingProgress) -> None:
        """Pass on what the first worker has posted."""
        try:
            posted: Posted = ray.get(self._board.look.remote())
        except RayError as error:
            raise explain(error, _REMEDY) from error
        for note in posted.notes:
            logger.info(note)
        for item in posted.epochs:
            if item.epoch_record is not None:
                logger.info("epoch_done %s", item.epoch_record.describe())
            on_progress(item)
        for warning in posted.warnings:
            logger.warning(warning)
        if posted.progress is not None and posted.progress.epoch_record is None:
            on_progress(posted.progress)

    def _describe_stop(self, state: State | None = None) -> str:
        place = ""
        if state is not None:
            num_epochs = self._job.config.train.num_epochs
            place = f" at step {state.step} of epoch {state.epoch + 1} of {num_epochs}"
        return f"stopped{place} in {self._job.output}; run the same command to continue"
