"""The stream: pending parts -> load tasks -> captioner actors -> answered rows, by Ray Data.

Ray Data schedules, holds back what would flood memory, scales the actors and repeats what a dead
worker took with it. Only text rows come back to the driver.
"""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from raycap.bulk.captioning import CaptionActor
from raycap.bulk.loading import RunSpec, load_parts
from raycap.config import ActorRange
from raycap.errors import RaycapError, RunStopped

_MAX_BLOCKS = 4096
_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the captioner actors take of the cluster."""

    actors: ActorRange
    gpus_per_actor: float
    cpus_per_actor: float


def answered_rows(work: pa.Table, spec: RunSpec, resources: Resources) -> Iterator[pa.Table]:
    """Caption WORK and yield ANSWERED tables as they come, in no particular order.

    Raises:
        RaycapError: as a worker raised it, in one clear line.
        RunStopped: workers died again and again, or nothing moved for `engine.stall_timeout_s`.
    """
    context = _context(spec)
    with DataContext.current(context):
        answered = _stages(work, spec, resources)
        try:
            # Without reading ahead: it would hold the rows of one block back until the next.
            yield from answered.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise _explain(error) from error


def _stages(work: pa.Table, spec: RunSpec, resources: Resources) -> ray.data.Dataset:
    load: Any = load_parts  # Ray's annotations know no Arrow tables
    with warnings.catch_warnings():
        # See _restart_limits.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return (
            ray.data.from_arrow(_blocks_of(work))
            .map_batches(load, batch_size=None, batch_format="pyarrow", fn_kwargs={"spec": spec})
            .map_batches(
                CaptionActor,
                batch_size=spec.batch_size,
                batch_format="pyarrow",
                fn_constructor_kwargs={"spec": spec},
                compute=ActorPoolStrategy(
                    min_size=resources.actors.min, max_size=resources.actors.max
                ),
                num_gpus=resources.gpus_per_actor or None,
                num_cpus=resources.cpus_per_actor,
                **_restart_limits(),
            )
        )


def _restart_limits() -> dict[str, Any]:
    """Bound how often a dead captioner is replaced: Ray's own default is for ever.

    These are remote arguments of the actor, which map_batches takes under other names from Ray
    2.64 on: this is the one place to change then.
    """
    return {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}


def _context(spec: RunSpec) -> DataContext:
    """Copy Ray Data's settings with our own in them, so that a caller's stay as they are."""
    with warnings.catch_warnings():
        # Copying sets every field, those included that Ray warns of setting.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = spec.config.engine.stall_timeout_s
    # Blocks of pixels leave a load task as soon as they are full, so that captioning starts with
    # the first images and memory holds few.
    row_bytes = spec.model.target.num_bytes + 1_000
    context.target_max_block_size = spec.block_rows * row_bytes
    context.raise_original_map_exception = True
    if not spec.debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def _blocks_of(work: pa.Table) -> list[pa.Table]:
    """Split the work into as many tables as the driver can well keep track of."""
    size = -(-len(work) // _MAX_BLOCKS)
    return [work.slice(start, size) for start in range(0, len(work), size)]


def _explain(error: Exception) -> RaycapError:
    """Find the error that a worker raised in what Ray made of it."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        if isinstance(seen, RaycapError):
            return seen
        if isinstance(cause, RaycapError):
            return cause
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    first_line = " ".join(str(error).split())[:500]
    return RunStopped(
        f"the cluster gave up ({type(error).__name__}: {first_line}); what is committed stays: "
        "run the same command to continue, with --debug to see the workers' own output"
    )
