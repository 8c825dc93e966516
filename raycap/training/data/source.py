"""Row groups of a dataset's splits, the input of the epoch plan."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap.datasets.dataset import CaptionDataset
from raycap.datasets.parts import open_part
from raycap.datasets.splits import rank_of, subset_limit
from raycap.errors import DatasetError
from raycap.schema import IMAGE_ID, NUM_BYTES, SPLIT
from raycap.storage.base import KEY, Store
from raycap.storage.parallel import ordered_map
from raycap.training.data.plan import Rows, SplitGroups


def read_groups(dataset: CaptionDataset, split: str, share: float = 1.0) -> SplitGroups:
    """List the row groups of a split, from the footers of its parts.

    Args:
        dataset: the dataset.
        split: name of the split.
        share: share of its images; a smaller share is a subset of a larger one.

    Raises:
        DatasetError: the dataset has no such split, no image within the share, or is damaged.
    """
    _check_split(dataset, split)
    entries = dataset.index.filter(pc.equal(dataset.index[SPLIT], split))
    parts = list(zip(entries[KEY].to_pylist(), entries[NUM_BYTES].to_pylist(), strict=True))
    limit = None if share == 1.0 else rank_limit(dataset, share)
    found = list(
        ordered_map(
            lambda part: _groups(dataset.store, *part, limit), parts, dataset.config.list_threads
        )
    )
    groups = SplitGroups(
        keys=tuple(key for key, _ in parts),
        num_bytes=tuple(size for _, size in parts),
        part=np.repeat(np.arange(len(found)), list(map(len, found))),
        group=np.concatenate([[number for number, _ in part] for part in found]).astype(np.int64),
        num_images=np.concatenate([[_count(rows) for _, rows in part] for part in found]).astype(
            np.int64
        ),
        chosen=None
        if limit is None
        else tuple(np.asarray(rows) for part in found for _, rows in part),
    )
    if not groups.total:
        raise DatasetError(
            f"{dataset.store.uri}: train.subset={share:g} leaves no image of its {split} split; "
            "raise it",
            uri=dataset.store.uri,
            setting="train.subset",
        )
    return groups


def _check_split(dataset: CaptionDataset, split: str) -> None:
    if split not in dataset.splits:
        raise DatasetError(
            f"{dataset.store.uri}: has no {split} split, which training needs (it has: "
            f"{', '.join(dataset.splits)}); prepare it again with split.{split} above 0",
            uri=dataset.store.uri,
            setting=f"split.{split}",
        )


def rank_limit(dataset: CaptionDataset, share: float) -> int:
    """Return the rank below which the images of a share lie: see `datasets.splits.rank_of`."""
    return subset_limit(share * float(dataset.record.config.get("subset", 1.0)))


def _groups(
    store: Store, key: str, num_bytes: int, limit: int | None
) -> list[tuple[int, int | Rows]]:
    """List the row groups of a part with their number of rows, or their rows below a rank."""
    with open_part(store, key, num_bytes) as file:
        numbers = range(file.metadata.num_row_groups)
        if limit is None:
            return [(number, file.metadata.row_group(number).num_rows) for number in numbers]
        chosen = [(number, _below(file, number, limit)) for number in numbers]
        return [(number, rows) for number, rows in chosen if len(rows)]


def _below(file: pq.ParquetFile, number: int, limit: int) -> Rows:
    ids = file.read_row_group(number, [IMAGE_ID])[IMAGE_ID].to_pylist()
    return np.flatnonzero([rank_of(image_id) < limit for image_id in ids])


def _count(rows: int | Rows) -> int:
    return rows if isinstance(rows, int) else len(rows)
