"""Making the systems on the cluster, as trials of Ray Tune, and following how they get on."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from raycap.cluster.failures import explain
from raycap.experiments.study.making import StudySpec, make_system
from raycap.experiments.study.record import Status, SystemRecord
from raycap.storage.base import WriteLock

logger = logging.getLogger(__name__)

_CPUS = 0.05  # of a trial, which waits most of the time
_LOOK_EVERY_S = 0.5
_REMEDY = "run the same command to continue with the systems that are left"
_NAME = "name"

OnSystem = Callable[[SystemRecord], None]
"""Called with a system that is over: finished or failed."""
OnStage = Callable[[dict[str, tuple[str, float]]], None]
"""Called now and then with what each system that is being made is at, and how far, from 0 to 1."""


class Control:
    """Says whether the study is to stop, and holds how the systems get on; an actor."""

    def __init__(self) -> None:
        self._wants_stop = False
        self._stages: dict[str, tuple[str, float]] = {}
        self._over: list[SystemRecord] = []

    def stop(self) -> None:
        """Let all systems stop at their next step."""
        self._wants_stop = True

    def wants_stop(self) -> bool:
        """Answer a system."""
        return self._wants_stop

    def tell(self, name: str, stage: str, share: float) -> None:
        """Take how far a system is."""
        self._stages[name] = (stage, share)

    def take(self, system: SystemRecord) -> None:
        """Take a system that is over, or was stopped."""
        self._stages.pop(system.name, None)
        self._over.append(system)

    def look(self) -> tuple[dict[str, tuple[str, float]], list[SystemRecord]]:
        """Give how far all are, and those that have come to an end since the last look."""
        over, self._over = self._over, []
        return dict(self._stages), over


class Running:
    """One invocation of Ray Tune over the systems that are left.

    It runs in a thread of its own; the driver's looks at the control and at the lock meanwhile.
    """

    def __init__(
        self, systems: Sequence[SystemRecord], spec: StudySpec, max_concurrent: int
    ) -> None:
        self._systems = {system.name: system for system in systems}
        self._spec = spec
        self._max_concurrent = max_concurrent
        self._has_ended = Event()
        self._error: BaseException | None = None

    def follow(self, lock: WriteLock, on_system: OnSystem, on_stage: OnStage) -> bool:
        """Make all systems; say whether it was not interrupted.

        Raises:
            RaycapError: the study cannot go on.
            RunConflict: another writer has taken over the output.
        """
        thread = Thread(target=self._fit, daemon=True, name="raycap-study")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.")
            thread.start()
            try:
                is_whole = self._watch(lock, on_system, on_stage)
                self._relay(on_system, on_stage)
            except RayError as error:
                raise explain(error, _REMEDY) from error
            except BaseException:
                self._spec.control.stop.remote()
                raise
        if self._error is not None:
            raise explain(self._error, _REMEDY) from self._error
        return is_whole

    def _watch(self, lock: WriteLock, on_system: OnSystem, on_stage: OnStage) -> bool:
        """Pass on what is told until the end, which the first interrupt asks for."""
        is_stopping = False
        while not self._has_ended.is_set():
            try:
                self._has_ended.wait(_LOOK_EVERY_S)
                lock.check()
                self._relay(on_system, on_stage)
            except KeyboardInterrupt:
                if is_stopping:
                    break
                is_stopping = True
                logger.warning("stopping the systems at their next step: interrupt again not to")
                self._spec.control.stop.remote()
        return not is_stopping

    def _relay(self, on_system: OnSystem, on_stage: OnStage) -> None:
        stages, over = ray.get(self._spec.control.look.remote())
        for system in over:
            if system.status is not Status.RUNNING:
                on_system(system)
        on_stage(stages)

    def _fit(self) -> None:
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        if not self._spec.debug:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with tempfile.TemporaryDirectory(prefix="raycap-study-") as folder:
            try:
                found = self._tuner(folder).fit()
                self._tell_of_the_dead(found)
            except BaseException as error:  # noqa: BLE001  raised again in the driver's own thread
                self._error = error
            finally:
                self._has_ended.set()

    def _tuner(self, folder: str) -> Any:
        trial = tune.with_parameters(_make, spec=self._spec, systems=self._systems)
        return tune.Tuner(
            tune.with_resources(trial, {"CPU": _CPUS}),
            param_space={_NAME: tune.grid_search(list(self._systems))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._max_concurrent, reuse_actors=True
            ),
            # Nothing of worth comes here: systems keep what they have in the output.
            run_config=tune.RunConfig(name="study", storage_path=folder, verbose=0),
        )

    def _tell_of_the_dead(self, found: Any) -> None:
        """Tell of systems whose process died: they could not do so themselves."""
        for result in found:
            if result.error is not None:
                name = (result.config or {}).get(_NAME, "")
                reason = "its process died, perhaps out of memory; set study.retry_failed=true"
                dead = replace(self._systems[name], status=Status.FAILED, reason=reason)
                ray.get(self._spec.control.take.remote(dead))


def _make(
    config: dict[str, Any], spec: StudySpec, systems: dict[str, SystemRecord]
) -> dict[str, Any]:
    """Make a system, in a process of Ray Tune; what it comes to is told to the control."""
    system = systems[config[_NAME]]
    if ray.get(spec.control.wants_stop.remote()):
        return {"done": True}
    try:
        made = make_system(system, spec)
    except Exception as error:
        logger.debug("system failed", exc_info=True)
        was_stopped = ray.get(spec.control.wants_stop.remote())
        status = Status.RUNNING if was_stopped else Status.FAILED
        reason = "" if was_stopped else str(explain(error, "set study.retry_failed=true"))
        made = replace(system, status=status, reason=reason)
    ray.get(spec.control.take.remote(made))
    return {"done": True}
