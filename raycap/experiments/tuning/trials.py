"""The trials of a search on the cluster: a Ray Tune run, its progress, and what ends it early.

A search ends early when a budget is spent or a person interrupts it.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.stopper import NoopStopper, Stopper

from raycap.cluster.background import Background
from raycap.cluster.mailbox import stop_and_wait
from raycap.config import SearchConfig
from raycap.errors import ConfigError
from raycap.experiments.tuning.record import name_of
from raycap.experiments.tuning.resources import TRIAL_CPUS
from raycap.experiments.tuning.space import Space, num_suggested
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
from raycap.results.search import Params
from raycap.results.status import Status
from raycap.storage.base import WriteLock

logger = logging.getLogger(__name__)

_REMEDY = "run the same command to continue with the trials that are left"
_DIED = "its process died, perhaps out of memory; set tune.retry_failed=true to run it again"

OnTrial = Callable[[Params, Status, str, tuple[str, ...]], None]
"""Called with a trial's settings, its status, the reason of a failure, and its warnings."""


class Limits(Stopper):
    """Ends the search when a budget is spent, or on an interrupt."""

    def __init__(
        self,
        search: SearchConfig,
        epochs: Mapping[str, int],
        on_end: Callable[[], None],
        is_interrupted: Callable[[], bool],
    ) -> None:
        """Start the clock.

        Args:
            search: the budgets.
            epochs: epochs that trials have done before, by name.
            on_end: called once, to end the search; Ray Tune kills running trials when it returns.
            is_interrupted: returns whether the user has interrupted the search.
        """
        self._search = search
        self._epochs = dict(epochs)
        self._on_end = on_end
        self._started = time.monotonic()
        self._is_spent = False
        self._has_ended_trials = False
        self._is_interrupted = is_interrupted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial: the scheduler does."""
        del trial_id, result
        return False

    def note_epoch(self, name: str, epoch: int) -> None:
        """Record how many epochs a trial has done."""
        self._epochs[name] = max(epoch, self._epochs.get(name, 0))

    def stop_all(self) -> bool:
        """Whether to end the search now; ends its trials first."""
        if self.is_over:
            self.end_trials()
        return self.is_over

    def end_trials(self) -> None:
        """Let running trials end, and wait for them."""
        if not self._has_ended_trials:
            self._has_ended_trials = True
            self._on_end()

    @property
    def is_over(self) -> bool:
        """Whether a budget is spent, or the search was interrupted."""
        search, seconds = self._search, time.monotonic() - self._started
        num_epochs = sum(self._epochs.values())
        if search.max_total_epochs is not None and num_epochs >= search.max_total_epochs:
            self._is_spent = True
        if search.max_time_s is not None and seconds >= search.max_time_s:
            self._is_spent = True
        return self._is_spent or self._is_interrupted()

    @property
    def end(self) -> str:
        """How the search ended."""
        if self._is_interrupted():
            return "interrupted"
        return "budget" if self._is_spent else "finished"

    def __reduce__(self) -> Any:
        """Exclude this object from Ray Tune's own record of the search, which nothing reads."""
        return NoopStopper, ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The search space and the strategy of a search."""

    space: Space
    search: SearchConfig
    points: list[Params]
    """Points to try, in order; for a search that learns, the first ones."""
    num_epochs: int
    """Maximum epochs per trial."""
    max_concurrent: int
    epochs: dict[str, int]
    """Epochs that trials have done before, by name."""


class Searching:
    """One call of Ray Tune, in the background."""

    def __init__(self, plan: SearchPlan, spec: TrialSpec, on_trial: OnTrial) -> None:
        self._plan = plan
        self._spec = spec
        self._on_trial = on_trial
        self._background = Background("tune", self._fit, spec.mailbox, _REMEDY)
        self._limits = Limits(
            plan.search, plan.epochs, self._end_trials, lambda: self._background.is_stopping
        )

    def follow(self, lock: WriteLock) -> str:
        """Search to the end; return how it ended: `finished`, `budget` or `interrupted`.

        Raises:
            RaycapError: the search cannot continue.
            RunConflict: another writer has taken over the output.
        """
        self._background.follow(lock, lambda _: None)
        return self._limits.end

    def _end_trials(self) -> None:
        # Ray Tune would wait for five seconds, and then kill trials that write a checkpoint.
        stop_and_wait(self._spec.mailbox, lambda: self._background.gives_up)

    def _fit(self, folder: str) -> None:
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        if not self._spec.debug:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        self._tuner(folder).fit()

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
                # Nothing worth keeping goes here: trials write to the output.
                storage_path=folder,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=self._limits,
                callbacks=[_Following(self._on_trial, self._limits, self._spec.mailbox, total)],
                verbose=0,
            ),
        )


def _scheduler(plan: SearchPlan) -> Any:
    search = plan.search
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr=EPOCH,
            max_t=max(plan.num_epochs, search.grace_epochs) + 1,  # a trial ends by itself
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
            "tune.algorithm=optuna needs the extra: pip install 'raycap[optuna]'",
            setting="tune.algorithm",
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
    """Forwards the progress of trials that Ray Tune reports."""

    def __init__(self, on_trial: OnTrial, limits: Limits, mailbox: Any, num_trials: int) -> None:
        self._on_trial = on_trial
        self._limits = limits
        self._mailbox = mailbox
        self._num_left = num_trials

    def log_trial_start(self, trial: RayTrial) -> None:
        """Report that a trial starts."""
        self._on_trial(_params(trial), Status.RUNNING, "", ())

    def log_trial_result(self, iteration: int, trial: RayTrial, result: dict[str, Any]) -> None:
        """Report the end of an epoch."""
        del iteration
        self._limits.note_epoch(name_of(_params(trial)), result.get(EPOCH, 0))
        self._on_trial(_params(trial), Status.RUNNING, "", tuple(result.get(NOTES, ())))

    def log_trial_end(self, trial: RayTrial, failed: bool = False) -> None:
        """Report the end of a trial; after the last, wait until all have stopped."""
        result = trial.last_result or {}
        is_whole = OVER in result and FAILURE not in result
        if self._limits.is_over and not is_whole:
            return  # the next invocation continues it
        if failed:
            self._mailbox.end.remote(name_of(_params(trial)))
        if failed or FAILURE in result:
            reason = result.get(FAILURE) or _DIED
            self._on_trial(_params(trial), Status.FAILED, reason, ())
        else:
            status = Status.FINISHED if is_whole else Status.STOPPED
            self._on_trial(_params(trial), status, "", ())
        self._num_left -= 1
        if not self._num_left:
            self._limits.end_trials()  # stopped trials may still be ending

    def __reduce__(self) -> Any:
        """Exclude this object from Ray Tune's own record of the search, which nothing reads."""
        return (LoggerCallback, ())


def _params(trial: RayTrial) -> Params:
    found: Params = trial.config.get(POINT, trial.config)
    return found
