"""The stream: pending parts -> load tasks -> captioner actors -> answered rows, by Ray Data.

Ray Data schedules, holds back what would flood memory, scales the actors and repeats what a dead
worker took with it. Only text rows come back to the driver.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from raycap.captioning.captioner import CaptionActor
from raycap.captioning.loading import RunSpec, load_parts
from raycap.captioning.vllm import answered_by_vllm
from raycap.cluster.failures import explain
from raycap.cluster.streaming import blocks_of, stream_context
from raycap.config import ActorRange

_REMEDY = "what is committed stays: run the same command to continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the captioner actors take of the cluster."""

    actors: ActorRange
    gpus_per_actor: float
    cpus_per_actor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What the stream is made of."""

    load: Callable[[pa.Table, RunSpec], Iterator[pa.Table]]
    """Loads the images of some rows of work."""
    captioner: type[CaptionActor]


RUN_STAGES = Stages(load=load_parts, captioner=CaptionActor)


def answered_rows(
    work: pa.Table, spec: RunSpec, resources: Resources, stages: Stages = RUN_STAGES
) -> Generator[pa.Table, None, None]:
    """Caption WORK and yield ANSWERED tables as they come, in no particular order.

    Other stages than those of a run take and yield other tables.

    Raises:
        RaycapError: as a worker raised it, in one clear line.
        RunStopped: nothing moved for `engine.stall_timeout_s`.
    """
    context = stream_context(
        # Blocks of pixels leave a load task as soon as they are full, so that captioning starts
        # with the first images and memory holds few.
        block_bytes=spec.block_rows * (spec.model.target.num_bytes + 1_000),
        stall_timeout_s=spec.config.engine.stall_timeout_s,
        debug=spec.debug,
    )
    with DataContext.current(context):
        answered = _stages(work, spec, resources, stages)
        try:
            # Without reading ahead: it would hold the rows of one block back until the next.
            yield from answered.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise explain(error, _REMEDY) from error


def _stages(
    work: pa.Table, spec: RunSpec, resources: Resources, stages: Stages = RUN_STAGES
) -> ray.data.Dataset:
    load: Any = stages.load  # Ray's annotations know no Arrow tables
    load_arguments, caption_arguments = _without_limit()
    with warnings.catch_warnings():
        # See _without_limit.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        loaded = ray.data.from_arrow(blocks_of(work)).map_batches(
            load,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"spec": spec},
            **load_arguments,
        )
        if spec.config.model.backend == "vllm":
            taken = resources.gpus_per_actor, resources.cpus_per_actor
            return answered_by_vllm(loaded, spec, resources.actors, *taken)
        return loaded.map_batches(
            stages.captioner,
            batch_size=spec.block_rows,  # the captioner cuts it up
            batch_format="pyarrow",
            fn_constructor_kwargs={"spec": spec},
            compute=ActorPoolStrategy(min_size=resources.actors.min, max_size=resources.actors.max),
            num_gpus=resources.gpus_per_actor or None,
            num_cpus=resources.cpus_per_actor,
            **caption_arguments,
        )


def _without_limit() -> tuple[dict[str, Any], dict[str, Any]]:
    """Let load tasks and captioners that died be tried again as often as it takes.

    Nodes come and go during a long run, and the loss of one costs a task several attempts, as Ray
    notices it late. What kills every attempt is no node: an image is isolated at the second one,
    and anything else is stopped by `engine.stall_timeout_s`.

    These are remote arguments, which map_batches takes under other names from Ray 2.64 on: this is
    the one place to change then.

    Returns:
        Those of the load tasks and those of the captioners.
    """
    return {"max_retries": -1}, {"max_restarts": -1, "max_task_retries": -1}
