"""Rows as a dataset of Ray Data: one read task per part."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from raycap.reading.parts import Part, PartReader


def dataset_of(reader: PartReader, parts: Sequence[Part]) -> ray.data.Dataset:
    """Return a dataset whose tasks read the parts."""
    with warnings.catch_warnings():
        # A dataset copies Ray Data's settings, including those that Ray warns about.
        warnings.simplefilter("ignore", DeprecationWarning)
        if not parts:
            return ray.data.from_arrow(reader.schema.empty_table())
        source = _Parts(reader, parts)
        found: ray.data.Dataset = ray.data.read_datasource(source, override_num_blocks=len(parts))
        return found


class _Parts(Datasource):
    """The parts of an output, as Ray Data asks for them."""

    def __init__(self, reader: PartReader, parts: Sequence[Part]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reader = reader
        self._parts = parts

    def get_name(self) -> str:
        """Name the operator in Ray's progress and statistics."""
        return "RaycapRows"

    def estimate_inmemory_data_size(self) -> int | None:
        """Say that the size is not known: footers have only that of the images."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: object = None,
    ) -> list[ReadTask]:
        """Return a task per part, however many Ray would like."""
        del parallelism, data_context
        return [
            ReadTask(
                _read(self._reader, part),
                BlockMetadata(
                    num_rows=None if self._reader.counts else part.num_rows,
                    size_bytes=None,
                    exec_stats=None,
                    input_files=(part.key,),
                ),
                schema=self._reader.schema,
                per_task_row_limit=per_task_row_limit,
            )
            for part in self._parts
        ]


def _read(reader: PartReader, part: Part) -> Callable[[], Iterator[pa.Table]]:
    return partial(reader, part)
