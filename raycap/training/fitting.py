"""Running the training workers by Ray Train, and deciding which of their failures to retry.

Several workers form a worker group of Ray Train. For that, Ray Train starts a dozen processes one
after the other, which takes a minute on two cores. A single worker needs no group: it runs Ray
Train's local mode in one actor, which is started again as often as a group would be.
"""

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from raycap.cluster.background import Background
from raycap.cluster.failures import find_error
from raycap.cluster.mailbox import Mail, Mailbox, Message
from raycap.cluster.start import start_here
from raycap.errors import RunStopped
from raycap.progress import announce
from raycap.results.training import OnTrainingProgress
from raycap.storage.base import WriteLock
from raycap.training.checkpoints import State, read_state
from raycap.training.loop import Assignment, End, work
from raycap.training.preparing import Job
from raycap.training.resources import Resources

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
"""Errors that a lost worker or node never causes: a retry would fail in the same way."""


class StopAtFaults(UserCallback):
    """A callback that keeps Ray Train from restarting workers after an error that would recur."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise such an error: Ray Train ends the run if a callback raises."""
        del run_context
        for error in worker_exceptions.values():
            if (recurring := _recurring(error)) is not None:
                raise recurring


def _recurring(error: Exception) -> Exception | None:
    """Return the error that a retry would raise again; None if a retry may succeed."""
    return find_error(error) or (error if isinstance(error, _FAULTS) else None)


class LoneWorker:
    """The worker of a run that has only one; an actor."""

    def fit(self, assignment: Assignment) -> dict[str, Any]:
        """Train in this process, as `work` does in a worker group."""
        trainer = _Trainer(
            work,
            train_loop_config={"assignment": assignment},
            scaling_config=ScalingConfig(num_workers=0),  # Ray Train's local mode
        )
        result: dict[str, Any] = trainer.fit().return_value
        return result


logger = logging.getLogger(__name__)

_REMEDY = "run the same command to continue from the last checkpoint"

# Ray's type annotations are those of the first version of Ray Train.
_Trainer: Any = TorchTrainer
_RunConfig: Any = RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The workers' result."""

    state: State
    end: End
    peak_memory_bytes: int
    """Peak memory of the first worker's process."""
    peak_device_bytes: int
    """Peak memory of its accelerator."""


class Fitting:
    """One call of Ray Train, in the background."""

    def __init__(self, job: Job, resources: Resources, *, debug: bool) -> None:
        self._job = job
        self._resources = resources
        self._debug = debug
        self._mailbox = start_here(Mailbox)

    def follow(self, lock: WriteLock, on_progress: OnTrainingProgress) -> Outcome:
        """Train to the end, and pass on the workers' progress meanwhile.

        Raises:
            RaycapError: as a worker raised it.
            RunConflict: another writer has taken over the output.
            RunStopped: the run was interrupted, or workers died too often.
        """
        announce("starting workers, loading the model")
        background = Background("train", self._fit, self._mailbox, _REMEDY)
        result = background.follow(lock, partial(_relay, on_progress))
        if result is None:
            raise RunStopped(self._describe_stop())
        outcome = Outcome(
            state=read_state(result["state"]),
            end=End(result["end"]),
            peak_memory_bytes=result["peak_memory_bytes"],
            peak_device_bytes=result["peak_device_bytes"],
        )
        if outcome.end is End.INTERRUPTED:
            raise RunStopped(self._describe_stop(outcome.state))
        return outcome

    def _fit(self, folder: str) -> dict[str, Any]:
        assignment = Assignment(
            job=self._job,
            mailbox=self._mailbox,
            torch_threads=self._resources.torch_threads,
            debug=self._debug,
        )
        if self._job.config.engine.num_workers == 1:
            return self._fit_alone(assignment)
        # Ray Train looks at its workers every 2 s by default, at their end too.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        result: dict[str, Any] = self._trainer(assignment, folder).fit().return_value
        return result

    def _fit_alone(self, assignment: Assignment) -> dict[str, Any]:
        """Train with one worker, and start another one if it fails for a transient reason."""
        num_left = self._job.config.engine.max_failures
        kind: Any = ray.remote(LoneWorker)
        while True:
            worker = kind.options(
                num_cpus=self._resources.cpus_per_worker,
                num_gpus=self._resources.gpus_per_worker,
                scheduling_strategy="DEFAULT",  # not within what a trial's actor reserves
            ).remote()
            try:
                result: dict[str, Any] = ray.get(worker.fit.remote(assignment))
            except Exception as error:
                if not num_left or _recurring(error) is not None:
                    raise
                num_left -= 1
                logger.warning("worker_failed %s: starting another", type(error).__name__)
            else:
                return result
            finally:
                ray.kill(worker)

    def _trainer(self, assignment: Assignment, folder: str) -> Any:
        engine, resources = self._job.config.engine, self._resources
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
                # Nothing worth keeping goes here: checkpoints go to the output, see `checkpoints`.
                storage_path=folder,
                failure_config=FailureConfig(max_failures=engine.max_failures),
                callbacks=[StopAtFaults()],
                logging_config=LoggingConfig(log_level="INFO" if self._debug else "CRITICAL"),
            ),
        )

    def _describe_stop(self, state: State | None = None) -> str:
        place = ""
        if state is not None:
            num_epochs = self._job.config.train.num_epochs
            place = f" at step {state.step} of epoch {state.epoch + 1} of {num_epochs}"
        return f"stopped{place} in {self._job.output}; run the same command to continue"


def _relay(on_progress: OnTrainingProgress, mail: Mail) -> None:
    """Log the first worker's messages, and pass its progress on."""
    for item in mail.items:
        if isinstance(item, Message):
            logger.log(item.level, item.text)
            continue
        if item.epoch_record is not None:
            logger.info("epoch_done %s", item.epoch_record.describe())
        on_progress(item)
    for progress in mail.updates.values():
        on_progress(progress)
