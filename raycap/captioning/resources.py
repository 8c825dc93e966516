"""Actors, threads and batch sizes of captioners, from the settings and the cluster's resources."""

import logging
import os

import psutil
import ray

from raycap.captioning.forecast import Workers
from raycap.captioning.stream import Resources
from raycap.config import ActorRange, CaptionConfig, EngineConfig
from raycap.errors import ConfigError
from raycap.models.base import BatchRange
from raycap.models.kinds import find_kind

logger = logging.getLogger(__name__)

_FAST_BATCH = 128  # the largest on an accelerator
_LARGE_BLOCK = 4  # batches
_MAX_BLOCK_BYTES = 256_000_000
_MANY_BLOCKS = 200  # per captioner: then the last one idles for at most 5 % of the run


def fit_resources(engine: EngineConfig, *, uses_gpus: bool, is_fixed: bool) -> Resources:
    """Return the resources of the captioners, from the settings and the cluster.

    Args:
        engine: The settings.
        uses_gpus: Whether the model runs on GPUs, if there are any.
        is_fixed: Whether the cluster cannot grow.

    Raises:
        ConfigError: the actors in the settings do not fit a cluster that cannot grow.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_gpus = total.get("GPU", 0.0)
    gpus = engine.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if num_gpus and uses_gpus else 0.0
    most = int(num_gpus / gpus) if gpus else 1
    actors = engine.num_actors or ActorRange(min=1, max=max(1, most))
    cpus = float(engine.torch_threads or 1)
    shortage = _shortage({"GPU": gpus, "CPU": cpus}, actors.min, total)
    if shortage is not None:
        if is_fixed:
            raise ConfigError(
                f"{shortage}; lower engine.num_actors, .gpus_per_actor or .torch_threads",
                setting="engine.num_actors",
            )
        logger.warning("cluster_small %s: waiting for it to grow", shortage)
    return Resources(actors=actors, gpus_per_actor=gpus, cpus_per_actor=cpus)


def _shortage(actor: dict[str, float], num_actors: int, total: dict[str, float]) -> str | None:
    """Return what the cluster lacks for this many actors of these resources; None if nothing."""
    if actor["GPU"] * num_actors > total.get("GPU", 0.0):
        return (
            f"engine.num_actors={num_actors} with engine.gpus_per_actor={actor['GPU']:g} needs "
            f"{actor['GPU'] * num_actors:g} GPUs, the cluster has {total.get('GPU', 0.0):g}"
        )
    num_cpus = actor["CPU"] * num_actors + 1  # one for a load task
    if num_cpus > total.get("CPU", 0.0):
        return (
            f"engine.num_actors={num_actors} needs {num_cpus:g} CPUs (one for loading included), "
            f"the cluster has {total.get('CPU', 0.0):g}"
        )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(all(node.get(name, 0.0) >= each for name, each in actor.items()) for node in nodes):
        return None
    wanted = " and ".join(f"{each:g} {name}s" for name, each in actor.items() if each)
    return f"each captioner needs {wanted} on one node, and no node has that many"


def count_workers(resources: Resources, num_parts: int) -> Workers:
    """Return how many captioners, load tasks and cores a run with `num_parts` parts uses."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus = total.get("CPU", 1.0)
    gpus, cpus = resources.gpus_per_actor, resources.cpus_per_actor
    fitting = total.get("GPU", 0.0) / gpus if gpus else (num_cpus - 1) / cpus
    actors = resources.actors
    captioners = max(actors.min, min(actors.max, int(fitting)))
    slots = max(1, int(num_cpus - captioners * cpus))
    cores = int(num_cpus)
    if len(ray.nodes()) == 1:  # type: ignore[no-untyped-call]
        cores = min(cores, os.cpu_count() or 1)  # a local Ray may have more CPUs than the machine
    return Workers(
        captioners=captioners,
        load_tasks=min(slots, max(1, num_parts)),
        cores=max(1, int(cores - captioners * cpus) if gpus else cores),
    )


def threads_per_actor(engine: EngineConfig, num_actors: int) -> int:
    """Return the CPU threads per captioner: the machine's cores, shared by the actors."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return engine.torch_threads or max(1, cores // num_actors)


def fit_batches(config: CaptionConfig, kind: str, resources: Resources) -> BatchRange:
    """Return the batch sizes that a captioner of this kind chooses from."""
    if config.engine.batch_size is not None:
        return BatchRange.fixed(config.engine.batch_size)
    on_accelerator = resources.gpus_per_actor > 0
    return find_kind(kind).batch_range(config.model, on_accelerator=on_accelerator)


def fit_blocks(batches: BatchRange, image_bytes: int, num_images: int, num_captioners: int) -> int:
    """Return how many of the largest batches make a block: two, or four in a large run.

    A block costs the process that schedules it about the same whatever its size. In a small run,
    larger blocks would leave captioners without any; large images would make them too large.

    Args:
        batches: Of the captioners.
        image_bytes: Of the pixels of an image.
        num_images: To caption.
        num_captioners: That share them.
    """
    rows = _LARGE_BLOCK * batches.most
    is_fast = batches.most >= _FAST_BATCH and rows * image_bytes <= _MAX_BLOCK_BYTES
    return _LARGE_BLOCK if is_fast and num_images >= _MANY_BLOCKS * rows * num_captioners else 2


def count_lanes(config: CaptionConfig, kind: str, resources: Resources) -> int:
    """Return how many batches a captioner computes at the same time: two on an accelerator.

    One if tokens are sampled, because the random generator belongs to the process; one for a
    compiled model, which also belongs to the process and launches all of a step at once; and one
    for kinds whose models are not thread-safe.
    """
    is_single = config.generation.sampling.enabled or config.model.compile
    can_overlap = find_kind(kind).is_threadsafe and not is_single
    return 2 if resources.gpus_per_actor and can_overlap else 1
