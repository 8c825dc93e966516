"""A caption dataset as a source: all that `raycap prepare` wrote, or one split of it.

Planning reads ids, addresses and digests, and no image. The images that a dataset holds itself are
read from it many at a time, so that each of its row groups is read about once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.bulk.sorting import sort_unique
from raycap.config import StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.record import DATASET, INDEX, is_dataset, read_record
from raycap.datasets.splits import known_split
from raycap.errors import ErrorCode, ImageError, StorageError, TransientError
from raycap.storage.base import Store

_CHUNK_ROWS = 1_024

Row = dict[str, Any]
File = bytes | ImageError
"""An image file, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """A caption dataset whose images are to be captioned."""

    dataset: CaptionDataset
    split: str | None
    """None: all of them."""

    def tables(self) -> Iterator[pa.Table]:
        """Read MANIFEST rows sorted by image id; raises as `CaptionDataset.pages` does."""
        splits = None if self.split is None else [self.split]
        pages = self.dataset.pages(splits, [schema.IMAGE_ID, schema.URI, schema.DIGEST])
        return sort_unique(map(self._manifest, pages))

    def _manifest(self, page: pa.Table) -> pa.Table:
        ids, uris, etags = page[schema.IMAGE_ID], page[schema.URI], page[schema.DIGEST]
        embed = self.dataset.record.config.get("embed", {})
        if embed.get("enabled", True):
            uris = pc.binary_join_element_wise(_held_uri(self.dataset.store.uri, ""), ids, "")
            if embed.get("max_side_px") is not None:
                # The digest is that of the file before it was shrunk.
                shrunk = f"{embed['max_side_px']}-{embed.get('quality')}"
                etags = pc.binary_join_element_wise(etags, shrunk, "-")
        # How long the embedded files are, no Parquet footer tells.
        sizes = pa.nulls(len(page), pa.int64())
        return pa.table([ids, uris, sizes, etags], schema=schema.MANIFEST)


def find_dataset(store: Store, config: StorageConfig, split: str | None) -> DatasetSource | None:
    """Open the complete caption dataset that stands there; None where there is none.

    That there is none takes one small request to see.

    Raises:
        DatasetError: it is damaged, or has no such split.
        StorageError: it cannot be reached.
    """
    # Other people's files may be called `dataset.json` too.
    if not (_stands(store, DATASET) and _stands(store, INDEX)):
        return None
    dataset = open_dataset(store.uri, config)
    if split is not None:
        split = known_split(split)
        dataset.parts(split)  # raises where there is none
    return DatasetSource(dataset=dataset, split=split)


def refuse_unfinished(store: Store) -> None:
    """Raise DatasetError if an unfinished caption dataset stands there."""
    if is_dataset(store):
        read_record(store)


def with_held_files(
    rows: Iterable[Row], dataset: str | None, config: StorageConfig
) -> Iterator[tuple[Row, File | None]]:
    """Pair rows of a run with the image files that its source, a caption dataset, holds itself.

    Some files at a time are in memory. The order is that of the dataset, chunk by chunk of rows.

    Args:
        rows: with `image_id` and `uri`.
        dataset: its address; None if the source is none.
        config: how stores are reached.

    Yields:
        Rows with their file; with None where the image has an address of its own.

    Raises:
        DatasetError: the dataset is damaged.
        StorageError: it cannot be read.
    """
    rows = iter(rows)
    if dataset is None:
        yield from ((row, None) for row in rows)
        return
    opened: CaptionDataset | None = None
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        yield from ((row, None) for row in chunk if not is_held(row, dataset))
        if held := [row for row in chunk if is_held(row, dataset)]:
            opened = opened or open_dataset(dataset, config)
            yield from held_files(held, opened)


def held_files(rows: Iterable[Row], dataset: CaptionDataset) -> Iterator[tuple[Row, File]]:
    """Read the images of some rows out of a dataset, in its own order.

    Where it cannot be reached for now, the rows that are left share that error: to try them one by
    one would take as many times all the retries.

    Raises:
        DatasetError: a part is damaged.
        StorageError: it cannot be read, or a part has gone.
    """
    waiting = {row[schema.IMAGE_ID]: row for row in rows}
    lost = ImageError(
        ErrorCode.NOT_FOUND, f"{dataset.store.uri}: does not have this image any more"
    )
    try:
        for image_id, data in dataset.images(list(waiting)):
            yield waiting.pop(image_id), data
    except TransientError as error:
        lost = ImageError(error.code, error.message)
    for row in waiting.values():
        yield row, lost


def _held_uri(dataset: str, image_id: str) -> str:
    return f"{dataset}#{image_id}"


def is_held(row: Row, dataset: str) -> bool:
    """Whether a caption dataset holds the image of a row itself."""
    return bool(row[schema.URI] == _held_uri(dataset, row[schema.IMAGE_ID]))


def _stands(store: Store, key: str) -> bool:
    try:
        store.read_tail(key, 1)
    except TransientError:
        raise
    except StorageError:
        # Also where it may not be looked at: whether the images may be, listing will tell.
        return False
    return True
