"""How many trials the cluster holds at a time.

A trial is a small actor, which reserves little, and starts workers and a stream, which reserve the
rest when it already holds its own place. So what is bounded is the number of trials: were it not,
each of many could hold what another waits for.
"""

import os

import psutil
import ray

from raycap.config import SearchConfig, TrainEngineConfig
from raycap.training.resources import STREAM_CPUS, Resources

TRIAL_CPUS = 0.05
"""CPUs that a trial's actor reserves; it waits most of the time."""


def fit_trials(
    total: dict[str, float], engine: TrainEngineConfig, resources: Resources, search: SearchConfig
) -> int:
    """Decide how many trials run at a time; at least one, which then waits for the cluster to grow.

    Args:
        total: the cluster's resources, by Ray's names.
        engine: how a trial's work is spread.
        resources: what a worker of a trial takes.
        search: the search's settings.
    """
    if search.max_concurrent is not None:
        return search.max_concurrent
    cpus = TRIAL_CPUS + STREAM_CPUS + engine.num_workers * resources.cpus_per_worker
    fitting = _whole(total.get("CPU", 0.0) / cpus)
    if resources.gpus_per_worker:
        num_workers = _fit_workers(total.get("GPU", 0.0), resources.gpus_per_worker)
        fitting = min(fitting, num_workers // engine.num_workers)
    return max(1, fitting)


def _fit_workers(gpus: float, gpus_per_worker: float) -> int:
    """Count the workers that find GPUs: one that takes a part of a GPU has it on a single one."""
    if gpus_per_worker >= 1:
        return _whole(gpus / gpus_per_worker)
    return int(gpus) * _whole(1 / gpus_per_worker)


def _whole(share: float) -> int:
    """Round down, as if 0.3 / 0.1 were 3."""
    return int(share + 1e-6)


def share_threads(engine: TrainEngineConfig, num_trials: int) -> TrainEngineConfig:
    """Share the cores of a machine among the workers of the trials that run on it."""
    if engine.torch_threads is not None:
        return engine
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
    on_one = -(-num_trials * engine.num_workers // max(1, nodes))
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return engine.model_copy(update={"torch_threads": max(1, cores // on_one)})
