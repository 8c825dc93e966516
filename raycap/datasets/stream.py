"""The stream: numbers of parts -> tasks that build them -> how far they got, by Ray Data.

Tasks write what they build themselves; only counts come back to the driver.
"""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext

from raycap.datasets.building import BuildSpec, build_parts
from raycap.errors import RaycapError, RunStopped
from raycap.schema import PART

_MAX_BLOCKS = 4096


def built_steps(numbers: list[int], spec: BuildSpec) -> Iterator[pa.Table]:
    """Build parts on the cluster; yield STEP tables as they come, in no particular order.

    Raises:
        RaycapError: as a worker raised it, in one clear line.
        RunStopped: workers died again and again, or nothing moved for `engine.stall_timeout_s`.
    """
    build: Any = build_parts  # Ray's annotations know no Arrow tables
    with DataContext.current(_context(spec)):
        steps = ray.data.from_arrow(_blocks_of(numbers)).map_batches(
            build, batch_size=None, batch_format="pyarrow", fn_kwargs={"spec": spec}
        )
        try:
            # Without reading ahead: it would hold a step back until the next.
            yield from steps.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise _explain(error) from error


def _context(spec: BuildSpec) -> DataContext:
    """Copy Ray Data's settings with our own in them, so that a caller's stay as they are."""
    with warnings.catch_warnings():
        # Copying sets every field, those included that Ray warns of setting.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = spec.config.engine.stall_timeout_s
    context.target_max_block_size = 1  # a step leaves its task at once
    context.raise_original_map_exception = True
    if not spec.debug:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def _blocks_of(numbers: list[int]) -> list[pa.Table]:
    """Split the work into as many tables as the driver can well keep track of."""
    size = -(-len(numbers) // _MAX_BLOCKS)
    work = pa.table({PART: pa.array(numbers, pa.int64())})
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
        f"the cluster gave up ({type(error).__name__}: {first_line}); what is built stays: run "
        "the same command to continue, with --debug to see the workers' own output"
    )
