"""The stream: work -> gather files -> load pixels -> the workers in turn, by Ray Data.

One stream lasts for the whole run, samples for validation included: no epoch waits for a new one
to start. Ray Data keeps the order, holds back what is not taken, and repeats what a dead task took
with it.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext, DataIterator, TaskPoolStrategy

from raycap.cluster.streaming import blocks_of, stream_context
from raycap.training.data.gathering import StreamSpec, gather
from raycap.training.data.loading import load
from raycap.training.data.pieces import EPOCH, FIRST, KIND, WINDOW, WORK, Kind

_GATHER_TASKS = 2
"""Windows in memory: the one that is streamed, and the next."""
_GATHER_CPUS = 0.25
"""It waits for storage, mostly. Other than that of loading, or Ray would merge the two."""


def start_stream(
    spec: StreamSpec, *, epoch: int, step: int, num_epochs: int, debug: bool
) -> list[DataIterator]:
    """Start the stream from a step of an epoch to the end of the last.

    Returns:
        An iterator for each worker; all must be read side by side. Each block is one LOADED row.
    """
    gathering: Any = gather  # Ray's annotations know no Arrow tables
    loading: Any = load
    work = pa.Table.from_pylist(list(work_from(spec, epoch, step, num_epochs)), schema=WORK)
    # No two pieces may be put into one block: blocks go to the workers in turn. The stream may rest
    # for as long as validation takes; `Feed` tells when a worker starves.
    context = stream_context(block_bytes=1, stall_timeout_s=None, debug=debug)
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        stream = (
            ray.data.from_arrow(blocks_of(work))
            .map_batches(
                gathering,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"spec": spec},
                compute=TaskPoolStrategy(_GATHER_TASKS),
                num_cpus=_GATHER_CPUS,
            )
            .map_batches(
                loading,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={"spec": spec},
                num_cpus=1,
            )
        )
        # Blocks of one row each go to whoever has the fewest rows, the first of equals: in turn.
        return list(stream.streaming_split(spec.plan.num_workers, equal=False))


def work_from(spec: StreamSpec, epoch: int, step: int, num_epochs: int) -> Iterator[dict[str, Any]]:
    """Yield WORK rows: each epoch's windows, then its samples."""
    for number in range(epoch, num_epochs):
        for span in spec.plan.spans(number, step if number == epoch else 0):
            yield {
                KIND: Kind.TRAIN,
                EPOCH: number,
                WINDOW: span.window,
                FIRST: span.first_step,
            }
        for kind in (Kind.VALIDATION, Kind.FITTED):
            yield {KIND: kind, EPOCH: number, WINDOW: 0, FIRST: 0}
