"""What every stream of Ray Data here has in common: its settings, and its blocks of work."""

import logging
import warnings

import pyarrow as pa
from ray.data import DataContext

_MAX_BLOCKS = 4096


def stream_context(*, block_bytes: int, stall_timeout_s: float | None, debug: bool) -> DataContext:
    """Copy Ray Data's settings with our own in them, so that a caller's stay as they are.

    Args:
        block_bytes: size at which a block leaves its task; 1: each table at once.
        stall_timeout_s: stop when nothing moved for so long; None: wait for ever.
        debug: let Ray tell what it does.
    """
    with warnings.catch_warnings():
        # Copying sets every field, those included that Ray warns of setting.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1 if stall_timeout_s is None else stall_timeout_s
    context.target_max_block_size = block_bytes
    context.raise_original_map_exception = True
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def blocks_of(work: pa.Table) -> list[pa.Table]:
    """Split work into as many tables as the driver can well keep track of."""
    size = max(1, -(-len(work) // _MAX_BLOCKS))
    return [work.slice(start, size) for start in range(0, len(work), size)]
