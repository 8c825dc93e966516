"""The stream: numbers of parts -> tasks that build them -> how far they got, by Ray Data.

Tasks write what they build themselves; only counts come back to the driver.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext

from raycap.datasets.building import BuildSpec, build_parts
from raycap.failures import explain
from raycap.schema import PART
from raycap.streaming import blocks_of, stream_context

_REMEDY = "what is built stays: run the same command to continue"


def built_steps(numbers: list[int], spec: BuildSpec) -> Iterator[pa.Table]:
    """Build parts on the cluster; yield STEP tables as they come, in no particular order.

    Raises:
        RaycapError: as a worker raised it, in one clear line.
        RunStopped: workers died again and again, or nothing moved for `engine.stall_timeout_s`.
    """
    build: Any = build_parts  # Ray's annotations know no Arrow tables
    work = pa.table({PART: pa.array(numbers, pa.int64())})
    context = stream_context(
        block_bytes=1,  # a step leaves its task at once
        stall_timeout_s=spec.config.engine.stall_timeout_s,
        debug=spec.debug,
    )
    with DataContext.current(context):
        steps = ray.data.from_arrow(blocks_of(work)).map_batches(
            build, batch_size=None, batch_format="pyarrow", fn_kwargs={"spec": spec}
        )
        try:
            # Without reading ahead: it would hold a step back until the next.
            yield from steps.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise explain(error, _REMEDY) from error
