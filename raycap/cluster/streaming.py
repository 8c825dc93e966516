"""Settings and blocks of work that all streams of Ray Data share."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray

_MAX_BLOCKS = 4096


def stream_context(
    *, block_bytes: int, stall_timeout_s: float | None, debug: bool
) -> "ray.data.DataContext":
    """Return a copy of Ray Data's settings with our own, so that a caller's do not change.

    Args:
        block_bytes: size at which a block leaves its task; 1: each table immediately.
        stall_timeout_s: stop after this many seconds without progress; None: wait for ever.
        debug: show Ray's own log.
    """
    with warnings.catch_warnings():
        # Copying sets every field, including those that Ray warns about.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1 if stall_timeout_s is None else stall_timeout_s
    context.target_max_block_size = block_bytes
    context.raise_original_map_exception = True
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def start_shared_actors() -> None:
    """Start the actors that all streams of a cluster share, on this node.

    Ray Data binds them for ever to the node where the first stream begins. If that node is lost, no
    stream can begin or continue any more.
    """
    # Imported here, since they load Ray Data; it has no public names for them, and no types.
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator  # noqa: PLC0415
    from ray.data._internal.execution import node_trackers  # noqa: PLC0415
    from ray.data._internal.stats import get_or_create_stats_actor  # noqa: PLC0415

    starts: list[Callable[[], Any]] = [
        get_or_create_stats_actor,
        node_trackers.get_or_create_actor_location_tracker,
        default_autoscaling_coordinator.get_or_create_autoscaling_coordinator,
    ]
    for start in starts:
        start()


def blocks_of(work: pa.Table) -> list[pa.Table]:
    """Split work into at most 4,096 tables, which the driver can keep track of."""
    size = max(1, -(-len(work) // _MAX_BLOCKS))
    return [work.slice(start, size) for start in range(0, len(work), size)]
