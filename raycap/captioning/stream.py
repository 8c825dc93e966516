"""The stream in Ray Data: pending parts -> load tasks -> captioner actors -> answered rows.

Ray Data schedules, applies backpressure, scales the actors, and repeats the work of dead workers.
Only text rows return to the driver.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from raycap.captioning.captioner import CaptionActor
from raycap.captioning.endpoint import EndpointActor, num_calls_per_actor
from raycap.captioning.loading import RunSpec, load_parts
from raycap.captioning.vllm import answered_by_vllm
from raycap.cluster.failures import explain
from raycap.cluster.streaming import blocks_of, stream_context
from raycap.config import ActorRange
from raycap.progress import announce

_REMEDY = "committed parts are kept: run the same command to continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of the captioner actors."""

    actors: ActorRange
    gpus_per_actor: float
    cpus_per_actor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages of the stream."""

    load: Callable[[pa.Table, RunSpec], Iterator[pa.Table]]
    """Loads the images for rows of work."""
    captioner: type[CaptionActor]
    endpoint: type[EndpointActor] = EndpointActor
    """Instead of `captioner`, if the model is at endpoints."""


RUN_STAGES = Stages(load=load_parts, captioner=CaptionActor)


def answered_rows(
    work: pa.Table, spec: RunSpec, resources: Resources, stages: Stages = RUN_STAGES
) -> Generator[pa.Table, None, None]:
    """Caption WORK and yield ANSWERED tables as they arrive, in any order.

    Stages other than RUN_STAGES accept and yield other tables.

    Raises:
        RaycapError: raised by a worker.
        RunStopped: no progress for `engine.stall_timeout_s`.
    """
    context = stream_context(
        # Load tasks pass blocks of pixels on as soon as they are full, so that captioning starts
        # with the first images and few images are in memory.
        block_bytes=spec.block_bytes,
        stall_timeout_s=spec.config.engine.stall_timeout_s,
        debug=spec.debug,
    )
    with ray.data.DataContext.current(context):
        answered = _stages(work, spec, resources, stages)
        announce("starting workers, loading the model")
        try:
            # Without prefetching, which would hold the rows of a block back until the next.
            yield from answered.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise explain(error, _REMEDY) from error


def _stages(
    work: pa.Table, spec: RunSpec, resources: Resources, stages: Stages = RUN_STAGES
) -> "ray.data.Dataset":
    load: Any = stages.load  # Ray's annotations do not include Arrow tables
    load_arguments, caption_arguments = _without_limit()
    with warnings.catch_warnings():
        # See _without_limit.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        loaded = ray.data.from_blocks(blocks_of(work)).map_batches(
            load,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"spec": spec},
            **load_arguments,
        )
        if spec.config.model.backend == "vllm":
            taken = resources.gpus_per_actor, resources.cpus_per_actor
            return answered_by_vllm(loaded, spec, resources.actors, *taken)
        actor: Any = stages.endpoint if spec.is_remote else stages.captioner
        num_calls = num_calls_per_actor(spec) if spec.is_remote else None
        answered: ray.data.Dataset = loaded.map_batches(
            actor,
            batch_size=spec.block_rows,  # the captioner cuts it up
            batch_format="pyarrow",
            fn_constructor_kwargs={"spec": spec},
            compute=ray.data.ActorPoolStrategy(
                min_size=resources.actors.min,
                max_size=resources.actors.max,
                max_tasks_in_flight_per_actor=num_calls,
                max_concurrent_calls_per_actor=num_calls,
            ),
            num_gpus=resources.gpus_per_actor or None,
            num_cpus=resources.cpus_per_actor,
            **caption_arguments,
        )
        return answered


def _without_limit() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Ray arguments with which dead load tasks and captioners are retried without limit.

    Nodes come and go during a long run, and losing one costs a task several attempts, because Ray
    notices it late. If every attempt dies, the cause is not a node: an image is isolated at the
    second attempt, and anything else is stopped by `engine.stall_timeout_s`.

    From Ray 2.64 on, map_batches takes these arguments under other names; this is the only place to
    change then.

    Returns:
        The arguments of load tasks and of captioners.
    """
    return {"max_retries": -1}, {"max_restarts": -1, "max_task_retries": -1}
