"""The stream: work -> gather files -> load pixels -> the workers in turn, by Ray Data.

One stream lasts for the whole run, samples for validation included: no epoch waits for a new one
to start. Ray Data keeps the order, holds back what is not taken, and repeats what a dead task took
with it.
"""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext, DataIterator, TaskPoolStrategy

from raycap.train.gathering import StreamSpec, gather
from raycap.train.loading import load
from raycap.train.tables import EPOCH, FIRST, KIND, WINDOW, WORK, Kind

_MAX_BLOCKS = 4096
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
    with DataContext.current(_context(debug=debug)):
        stream = (
            ray.data.from_arrow(_blocks_of(list(work_from(spec, epoch, step, num_epochs))))
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


def _blocks_of(work: list[dict[str, Any]]) -> list[pa.Table]:
    """Split the work into as many tables as Ray can well keep track of."""
    size = -(-len(work) // _MAX_BLOCKS)
    return [
        pa.Table.from_pylist(work[start : start + size], schema=WORK)
        for start in range(0, len(work), size)
    ]


def _context(*, debug: bool) -> DataContext:
    """Copy Ray Data's settings with our own in them, so that a caller's stay as they are."""
    with warnings.catch_warnings():
        # Copying sets every field, those included that Ray warns of setting.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # So that no two pieces are put into one block: blocks go to the workers in turn.
    context.target_max_block_size = 1
    # The stream may rest for as long as validation takes; `Feed` tells when a worker starves.
    context.execution_no_progress_timeout_s = -1
    context.raise_original_map_exception = True
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context
