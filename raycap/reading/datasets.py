"""The rows of a caption dataset of `raycap prepare`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.parts import FIRST, LAST, NUM_IMAGES, read_part
from raycap.reading.parts import Content, Part
from raycap.results.dataset import DatasetRecord
from raycap.schema import BYTES, DATASET, NUM_BYTES
from raycap.storage.base import KEY, Store
from raycap.storage.stores import open_store

_PARTS_AHEAD = 2  # with images, tables have about 8 MB


@dataclass(frozen=True, kw_only=True)
class DatasetRows(Content):
    """The images of a dataset with their captions; `bytes` is read only if it is named."""

    uri: str
    config: StorageConfig
    schema: pa.Schema = DATASET
    read_ahead: int = _PARTS_AHEAD

    @property
    def default_columns(self) -> list[str]:
        """All but the images."""
        return [name for name in self.schema.names if name != BYTES]

    @cached_property
    def _store(self) -> Store:
        return open_store(self.uri, self.config)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_store"}

    def tables(self, part: Part, columns: list[str]) -> Iterator[pa.Table]:
        """Read columns of a part: as one table or, with images, by row groups."""
        return read_part(self._store, part.key, part.num_bytes, columns)


def open_dataset_rows(
    store: Store, config: StorageConfig
) -> tuple[DatasetRows, list[Part], DatasetRecord]:
    """Open a dataset by its index.

    Raises:
        DatasetError: it is unfinished or damaged.
    """
    dataset = open_dataset(store.uri, config)
    parts = [
        Part(
            key=row[KEY],
            first=row[FIRST],
            last=row[LAST],
            num_rows=row[NUM_IMAGES],
            num_bytes=row[NUM_BYTES],
        )
        for row in dataset.index.to_pylist()
    ]
    return DatasetRows(uri=store.uri, config=config), parts, dataset.record
