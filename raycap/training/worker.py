"""What each worker of Ray Train runs: get ready, open the stream, train."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.train
from ray.train.torch import get_device

from raycap.config import TrainEngineConfig
from raycap.models.device import peak_device_bytes, peak_memory_bytes, pick_device, use_threads
from raycap.storage.stores import open_store
from raycap.training.board import BoardReporter
from raycap.training.data.feed import Feed
from raycap.training.data.gathering import StreamSpec
from raycap.training.data.stream import start_stream
from raycap.training.loop import Loop
from raycap.training.preparing import Job, prepare
from raycap.training.state import State
from raycap.training.workers import Workers

_READ_AHEAD = 2
_dumps: Any = ray.cloudpickle.dumps  # untyped there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """What every worker is given."""

    job: Job
    board: Any
    """The actor where the first one posts how it gets on."""
    torch_threads: int
    debug: bool
    """Let Ray tell what it does."""


def work(settings: dict[str, Assignment]) -> dict[str, Any]:
    """Train as one of the workers; return how it ended, and the state."""
    given = settings["assignment"]
    config = given.job.config
    use_threads(given.torch_threads)
    workers = _workers(config.engine)
    reporter = BoardReporter(given.board)
    store = open_store(given.job.output, config.storage)
    run, state, spec = prepare(given.job, store, workers, reporter)
    tables = _tables(spec, state, workers, config.train.num_epochs, debug=given.debug)
    timeout_s = config.engine.stall_timeout_s
    with Feed(tables, workers, run.learner.trainable, timeout_s) as feed:
        end = Loop(run, feed, state).train()
    reporter.flush()
    return {
        "end": str(end),
        "state": state.to_json(),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_bytes": peak_device_bytes(workers.device),
    }


def _workers(engine: TrainEngineConfig) -> Workers:
    context = ray.train.get_context()
    size = context.get_world_size()
    device = get_device()
    if device.type == "cpu" and size == 1 and engine.gpus_per_worker is None:
        device = pick_device()  # an accelerator that Ray does not know of
    return Workers(rank=context.get_world_rank(), size=size, device=device)


def _tables(
    spec: StreamSpec, state: State, workers: Workers, num_epochs: int, *, debug: bool
) -> Iterator[pa.Table]:
    """Open the stream, as the first worker does for all; give this one's end of it."""
    ends: list[bytes] = []
    if workers.is_first:
        iterators = start_stream(
            spec, epoch=state.epoch, step=state.step, num_epochs=num_epochs, debug=debug
        )
        ends = [_dumps(iterator) for iterator in iterators]
    mine = ray.cloudpickle.loads(workers.share(ends)[workers.rank])
    tables: Iterator[pa.Table] = mine.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=_READ_AHEAD
    )
    return iter(tables)
