"""Running the trials on the cluster, by Ray Tune, and following what they tell.

What ends a search before it has tried everything: its budgets, and a person.
"""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.stopper import NoopStopper, Stopper

from raycap.cluster.failures import explain
from raycap.config import SearchConfig
from raycap.errors import ConfigError
from raycap.experiments.tuning.control import stop_trials
from raycap.experiments.tuning.record import name_of
from raycap.experiments.tuning.resources import TRIAL_CPUS
from raycap.experiments.tuning.search import Status
from raycap.experiments.tuning.space import Params, Space, num_suggested
from raycap.experiments.tuning.trial import (
    EPOCH,
    FAILURE,
    NOTES,
    OBJECTIVE,
    OVER,
    POINT,
    TrialActor,
    TrialSpec,
)
from raycap.storage.base import WriteLock


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


logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_REMEDY = "run the same command to continue with the trials that are left"

_DIED = "its process died, perhaps out of memory; set tune.retry_failed=true to run it again"

OnTrial = Callable[[Params, Status, str, tuple[str, ...]], None]
"""Called with a trial's settings, how it is now, why it failed, and what it warns of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What is searched, and how."""

    space: Space
    search: SearchConfig
    points: list[Params]
    """What is tried, in order; of a search that learns, those to begin with."""
    num_epochs: int
    """Of a trial that is not stopped."""
    max_concurrent: int
    epochs: dict[str, int]
    """How far trials were before, by their names."""


class Searching:
    """One invocation of Ray Tune.

    It runs in a thread of its own; the driver's looks at the lock, and for an interrupt.
    """

    def __init__(self, plan: SearchPlan, spec: TrialSpec, on_trial: OnTrial) -> None:
        self._plan = plan
        self._spec = spec
        self._on_trial = on_trial
        self._limits = Limits(plan.search, plan.epochs, self._end_trials)
        self._gives_up = False
        self._has_ended = Event()
        self._error: BaseException | None = None

    def follow(self, lock: WriteLock) -> str:
        """Search to the end; say whether it came there: `finished`, `budget` or `interrupted`.

        Raises:
            RaycapError: the search cannot go on.
            RunConflict: another writer has taken over the output.
        """
        thread = Thread(target=self._fit, daemon=True, name="raycap-tune")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.")
            thread.start()
            try:
                self._watch(lock)
            except BaseException:
                self._limits.is_interrupted = self._gives_up = True
                self._spec.control.stop.remote()
                raise
        if self._error is not None:
            raise explain(self._error, _REMEDY) from self._error
        return self._limits.end

    def _watch(self, lock: WriteLock) -> None:
        """Wait for the end, which the first interrupt asks for."""
        while not self._has_ended.is_set():
            try:
                self._has_ended.wait(_LOOK_EVERY_S)
                lock.check()
            except KeyboardInterrupt:
                if self._limits.is_interrupted:
                    self._gives_up = True
                    return
                logger.warning("stopping the trials at their next step: interrupt again not to")
                self._limits.is_interrupted = True

    def _end_trials(self) -> None:
        stop_trials(self._spec.control, lambda: self._gives_up)

    def _fit(self) -> None:
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        if not self._spec.debug:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with tempfile.TemporaryDirectory(prefix="raycap-tune-") as folder:
            try:
                self._tuner(folder).fit()
            except BaseException as error:  # noqa: BLE001  raised again in the driver's own thread
                self._error = error
            finally:
                self._spec.control.stop.remote()  # what Ray Tune may have left running
                self._has_ended.set()

    def _tuner(self, folder: str) -> Any:
        plan = self._plan
        actor = tune.with_parameters(TrialActor, spec=self._spec)
        learns = plan.search.algorithm == "optuna"
        total = num_suggested(plan.search) if learns else len(plan.points)
        space = None if learns else {POINT: tune.grid_search(plan.points)}
        return tune.Tuner(
            tune.with_resources(actor, {"CPU": TRIAL_CPUS}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="min",
                num_samples=total if learns else 1,
                search_alg=_optuna(plan) if learns else None,
                scheduler=_scheduler(plan),
                max_concurrent_trials=plan.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                # Nothing of worth comes here: trials keep what they have in the output.
                storage_path=folder,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=self._limits,
                callbacks=[_Following(self._on_trial, self._limits, self._spec.control, total)],
                verbose=0,
            ),
        )


def _scheduler(plan: SearchPlan) -> Any:
    search = plan.search
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr=EPOCH,
            max_t=max(plan.num_epochs, search.grace_epochs) + 1,  # the end ends a trial by itself
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction,
        )
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr=EPOCH, grace_period=search.grace_epochs)
    scheduler: Any = FIFOScheduler
    return scheduler()


def _optuna(plan: SearchPlan) -> Any:
    try:
        import optuna  # noqa: PLC0415  an extra
        from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "tune.algorithm=optuna needs the extra: pip install 'raycap[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher: Any = OptunaSearch
    return searcher(
        space={name: values.domain() for name, values in plan.space.items()},
        metric=OBJECTIVE,
        mode="min",
        points_to_evaluate=plan.points or None,
        seed=plan.search.seed,
    )


class _Following(LoggerCallback):
    """Tells what Ray Tune tells of trials."""

    def __init__(self, on_trial: OnTrial, limits: Limits, control: Any, num_trials: int) -> None:
        self._on_trial = on_trial
        self._limits = limits
        self._control = control
        self._num_left = num_trials

    def log_trial_start(self, trial: RayTrial) -> None:
        """Tell that a trial begins."""
        self._on_trial(_params(trial), Status.RUNNING, "", ())

    def log_trial_result(self, iteration: int, trial: RayTrial, result: dict[str, Any]) -> None:
        """Tell that an epoch is over."""
        del iteration
        self._limits.note_epoch(name_of(_params(trial)), result.get(EPOCH, 0))
        self._on_trial(_params(trial), Status.RUNNING, "", tuple(result.get(NOTES, ())))

    def log_trial_end(self, trial: RayTrial, failed: bool = False) -> None:
        """Tell that a trial is over; after the last, wait until all have ended."""
        result = trial.last_result or {}
        is_whole = OVER in result and FAILURE not in result
        if self._limits.is_over and not is_whole:
            return  # it goes on with the next invocation
        if failed:
            self._control.end.remote(name_of(_params(trial)))
        if failed or FAILURE in result:
            reason = result.get(FAILURE) or _DIED
            self._on_trial(_params(trial), Status.FAILED, reason, ())
        else:
            status = Status.FINISHED if is_whole else Status.STOPPED
            self._on_trial(_params(trial), status, "", ())
        self._num_left -= 1
        if not self._num_left:
            self._limits.end_trials()  # those that were stopped may still be ending

    def __reduce__(self) -> Any:
        """Let Ray Tune write its own record of the search, which nothing reads, without it."""
        return (LoggerCallback, ())


def _params(trial: RayTrial) -> Params:
    found: Params = trial.config.get(POINT, trial.config)
    return found
