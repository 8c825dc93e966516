"""Making the systems on the cluster, as trials of Ray Tune, and following their progress."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import tune

from raycap.cluster.background import Background
from raycap.cluster.failures import explain
from raycap.cluster.mailbox import Mail, Sender
from raycap.experiments.study.making import StudySpec, make_system
from raycap.results.status import Status
from raycap.results.study import SystemRecord
from raycap.storage.base import WriteLock

logger = logging.getLogger(__name__)

_CPUS = 0.05  # of a trial, which waits most of the time
_REMEDY = "run the same command to continue with the systems that are left"
_NAME = "name"

OnSystem = Callable[[SystemRecord], None]
"""Called with a system that has ended: finished or failed."""
OnStage = Callable[[dict[str, tuple[str, float]]], None]
"""Called several times per second with the stage of each system under way, and its progress from
0 to 1."""


class Running:
    """One call of Ray Tune over the systems that are left, in the background."""

    def __init__(
        self, systems: Sequence[SystemRecord], spec: StudySpec, max_concurrent: int
    ) -> None:
        self._systems = {system.name: system for system in systems}
        self._spec = spec
        self._max_concurrent = max_concurrent
        self._stages: dict[str, tuple[str, float]] = {}

    def follow(self, lock: WriteLock, on_system: OnSystem, on_stage: OnStage) -> bool:
        """Make all systems; return whether it was not interrupted.

        Raises:
            RaycapError: the study cannot go on.
            RunConflict: another writer has taken over the output.
        """
        background = Background("study", self._fit, self._spec.mailbox, _REMEDY)
        background.follow(lock, partial(self._relay, on_system, on_stage))
        return not background.is_stopping

    def _relay(self, on_system: OnSystem, on_stage: OnStage, mail: Mail) -> None:
        self._stages |= mail.updates
        for system in mail.items:
            self._stages.pop(system.name, None)
            if system.status is not Status.RUNNING:
                on_system(system)
        on_stage(dict(self._stages))

    def _fit(self, folder: str) -> None:
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        if not self._spec.debug:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        self._report_dead(self._tuner(folder).fit())

    def _tuner(self, folder: str) -> Any:
        trial = tune.with_parameters(_make, spec=self._spec, systems=self._systems)
        return tune.Tuner(
            tune.with_resources(trial, {"CPU": _CPUS}),
            param_space={_NAME: tune.grid_search(list(self._systems))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._max_concurrent, reuse_actors=True
            ),
            # Nothing worth keeping goes here: systems write to the output.
            run_config=tune.RunConfig(name="study", storage_path=folder, verbose=0),
        )

    def _report_dead(self, found: Any) -> None:
        """Report systems whose process died: they could not do so themselves."""
        for result in found:
            if result.error is not None:
                name = (result.config or {}).get(_NAME, "")
                reason = "its process died, perhaps out of memory; set study.retry_failed=true"
                dead = replace(self._systems[name], status=Status.FAILED, reason=reason)
                ray.get(self._spec.mailbox.post.remote(name, dead))


def _make(
    config: dict[str, Any], spec: StudySpec, systems: dict[str, SystemRecord]
) -> dict[str, Any]:
    """Make a system in a process of Ray Tune, and post its record to the mailbox."""
    system = systems[config[_NAME]]
    sender = Sender(spec.mailbox, system.name)
    if ray.get(spec.mailbox.wants_stop.remote()):
        return {"done": True}
    try:
        made = make_system(system, spec, sender)
    except Exception as error:
        logger.debug("system failed", exc_info=True)
        was_stopped = ray.get(spec.mailbox.wants_stop.remote())
        status = Status.RUNNING if was_stopped else Status.FAILED
        reason = "" if was_stopped else str(explain(error, "set study.retry_failed=true"))
        made = replace(system, status=status, reason=reason)
    sender.post(made)
    sender.flush()
    return {"done": True}
