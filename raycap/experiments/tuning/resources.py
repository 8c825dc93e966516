"""How many trials run at a time on the cluster.

A trial is a small actor that reserves little. It then starts workers and a stream, which reserve
the rest. The number of trials is limited because too many could otherwise deadlock, each holding
resources that another waits for.
"""

import os

import psutil
import ray

from raycap.config import SearchConfig, TrainEngineConfig
from raycap.training.resources import STREAM_CPUS, Resources

TRIAL_CPUS = 0.05
"""CPUs that a trial's actor reserves; it mostly waits."""


def fit_trials(
    total: dict[str, float], engine: TrainEngineConfig, resources: Resources, search: SearchConfig
) -> int:
    """Return how many trials run at a time; at least one, which may wait for the cluster to grow.

    Args:
        total: the cluster's resources, by Ray's names.
        engine: the engine settings of a trial.
        resources: resources per worker of a trial.
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
    """Return how many workers fit the GPUs; a share of a GPU must be on a single one."""
    if gpus_per_worker >= 1:
        return _whole(gpus / gpus_per_worker)
    return int(gpus) * _whole(1 / gpus_per_worker)


def _whole(share: float) -> int:
    """Round down, with tolerance: 0.3 / 0.1 counts as 3."""
    return int(share + 1e-6)


def share_threads(engine: TrainEngineConfig, num_trials: int) -> TrainEngineConfig:
    """Divide the cores of a machine among the workers of the trials that run on it."""
    if engine.torch_threads is not None:
        return engine
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
    per_node = -(-num_trials * engine.num_workers // max(1, nodes))
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return engine.model_copy(update={"torch_threads": max(1, cores // per_node)})
