"""Resources of the workers of a training run."""

import logging
import os
from dataclasses import dataclass

import psutil
import ray

from raycap.config import TrainEngineConfig
from raycap.errors import ConfigError

logger = logging.getLogger(__name__)

STREAM_CPUS = 1.25
"""CPUs to leave free for the stream: one task that gathers, one that loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of one worker."""

    gpus_per_worker: float
    cpus_per_worker: float
    torch_threads: int


def fit_resources(engine: TrainEngineConfig, *, is_fixed: bool) -> Resources:
    """Decide the resources per worker, from the settings and the cluster's resources.

    Args:
        engine: the settings.
        is_fixed: whether the cluster cannot grow.

    Raises:
        ConfigError: the requested workers do not fit a cluster that cannot grow.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = engine.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if total.get("GPU") else 0.0
    needed = {
        "GPU": gpus * engine.num_workers,
        "CPU": engine.cpus_per_worker * engine.num_workers + STREAM_CPUS,
    }
    for name, amount in needed.items():
        if amount > total.get(name, 0.0):
            shortage = (
                f"engine.num_workers={engine.num_workers} needs {amount:g} {name}s "
                f"(including the image stream), the cluster has {total.get(name, 0.0):g}"
            )
            if is_fixed:
                raise ConfigError(
                    f"{shortage}; lower engine.num_workers, .gpus_per_worker or .cpus_per_worker",
                    setting="engine.num_workers",
                )
            logger.warning("cluster_small %s: waiting for it to grow", shortage)
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return Resources(
        gpus_per_worker=gpus,
        cpus_per_worker=engine.cpus_per_worker,
        torch_threads=engine.torch_threads or max(1, cores // engine.num_workers),
    )
