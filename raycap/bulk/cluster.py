"""Ray: attach to the cluster that runs, or start a local one; and fit the actors to it."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psutil
import ray

from raycap.bulk.pipeline import Resources
from raycap.config import ActorRange, EngineConfig
from raycap.errors import ConfigError

logger = logging.getLogger(__name__)

_MIN_LOCAL_CPUS = 4


@contextmanager
def ray_cluster(*, debug: bool = False) -> Iterator[bool]:
    """Be connected to Ray within the block; yield whether its size is fixed.

    An existing connection is used and left as it is; then a running cluster is looked for
    (`RAY_ADDRESS`, a submitted job's own, `ray start` on this machine); otherwise a local Ray is
    started, and stopped at the end. Any cluster but the local one may grow as work waits.
    """
    if ray.is_initialized():
        yield False
        return
    # Ray reports usage to its makers by default when it starts a cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with nullcontext() if debug else _quiet_start():
        is_fixed = _connect(debug=debug)
    try:
        yield is_fixed
    finally:
        ray.shutdown()


def _connect(*, debug: bool) -> bool:
    """Attach to the cluster that RAY_ADDRESS or `ray start` named, or start a local Ray.

    Returns:
        Whether it is a local one of our own.

    Raises:
        ConfigError: a cluster is named and does not answer.
    """
    is_local = True
    on_terminate = signal.getsignal(signal.SIGTERM)
    level = logging.INFO if debug else logging.ERROR
    # Fewer logical CPUs than stages would leave a stage without any, and hang.
    num_cpus = max(_MIN_LOCAL_CPUS, os.cpu_count() or 1)
    try:
        # Not address="auto": that attaches to any Ray of this machine, other programs' own too.
        ray.init(
            num_cpus=num_cpus, include_dashboard=False, logging_level=level, log_to_driver=debug
        )
    except ValueError:  # a cluster is named, whose size is not ours to say
        is_local = False
        try:
            ray.init(logging_level=level, log_to_driver=debug)
        except ConnectionError as error:
            raise ConfigError(
                "the Ray cluster that RAY_ADDRESS or `ray start` named does not answer; start it, "
                "or unset RAY_ADDRESS and run `ray stop` to caption on this machine alone"
            ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray has put in its own, which exits on the spot.
        signal.signal(signal.SIGTERM, on_terminate)
    return is_local


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep Ray's C++ side from writing to the terminal what no user can act on.

    It warns on every run whose actors may restart; the log level that silences this is announced
    on standard error, past Python, so that line alone is taken out.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def fit_resources(engine: EngineConfig, *, uses_gpus: bool, is_fixed: bool) -> Resources:
    """Decide what the captioners take, from the settings and what the cluster has.

    Args:
        engine: the settings.
        uses_gpus: whether the model runs on GPUs where there are any.
        is_fixed: whether the cluster cannot grow.

    Raises:
        ConfigError: the actors that the settings ask for do not fit, and never will.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_gpus = total.get("GPU", 0.0)
    gpus = engine.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if num_gpus and uses_gpus else 0.0
    most = int(num_gpus / gpus) if gpus else 1
    actors = engine.num_actors or ActorRange(min=1, max=max(1, most))
    cpus = float(engine.torch_threads or 1)
    needed = {"GPU": gpus * actors.min, "CPU": cpus * actors.min + 1}  # one for a load task
    for name, amount in needed.items():
        if amount > total.get(name, 0.0):
            shortage = (
                f"engine.num_actors={actors.min} needs {amount:g} {name}s (a CPU for "
                f"loading included), the cluster has {total.get(name, 0.0):g}"
            )
            if is_fixed:
                raise ConfigError(
                    f"{shortage}; lower engine.num_actors, .gpus_per_actor or .torch_threads"
                )
            logger.warning("cluster_small %s: waiting for it to grow", shortage)
    return Resources(actors=actors, gpus_per_actor=gpus, cpus_per_actor=cpus)


def threads_per_actor(engine: EngineConfig, num_actors: int) -> int:
    """CPU threads of a captioner: the machine's cores, shared by the actors."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return engine.torch_threads or max(1, cores // num_actors)
