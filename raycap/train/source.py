"""The dataset that is trained on: its splits, row group by row group."""

import numpy as np
import pyarrow.compute as pc

from raycap.datasets.dataset import CaptionDataset
from raycap.datasets.parts import open_part
from raycap.errors import DatasetError
from raycap.schema import NUM_BYTES, SPLIT
from raycap.storage.base import KEY, Store
from raycap.storage.parallel import ordered_map
from raycap.train.plan import SplitGroups


def read_groups(dataset: CaptionDataset, split: str) -> SplitGroups:
    """List the row groups of a split, from the footers of its parts.

    Raises:
        DatasetError: the dataset has no such split, or is damaged.
    """
    if split not in dataset.splits:
        raise DatasetError(
            f"{dataset.store.uri}: has no {split} split, which training needs (it has: "
            f"{', '.join(dataset.splits)}); prepare it again with split.{split} above 0"
        )
    entries = dataset.index.filter(pc.equal(dataset.index[SPLIT], split))
    parts = list(zip(entries[KEY].to_pylist(), entries[NUM_BYTES].to_pylist(), strict=True))
    store, num_threads = dataset.store, dataset.config.list_threads
    counts = list(ordered_map(lambda part: _group_sizes(store, *part), parts, num_threads))
    return SplitGroups(
        keys=tuple(key for key, _ in parts),
        num_bytes=tuple(size for _, size in parts),
        part=np.repeat(np.arange(len(counts)), list(map(len, counts))),
        group=np.concatenate([np.arange(len(sizes)) for sizes in counts]),
        num_images=np.concatenate([np.array(sizes, np.int64) for sizes in counts]),
    )


def _group_sizes(store: Store, key: str, num_bytes: int) -> list[int]:
    with open_part(store, key, num_bytes) as file:
        groups = range(file.metadata.num_row_groups)
        return [file.metadata.row_group(number).num_rows for number in groups]
