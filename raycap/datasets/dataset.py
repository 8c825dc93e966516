"""Reading a caption dataset, by parts or by single images."""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap import schema
from raycap.config import ImageConfig, StorageConfig
from raycap.datasets.parts import FIRST, LAST, PART_INDEX, open_part, read_part, read_table
from raycap.errors import DatasetError, ObjectNotFound
from raycap.results.dataset import INDEX, DatasetRecord, read_record
from raycap.storage.address import redact
from raycap.storage.base import KEY, Store
from raycap.storage.parallel import ordered_chain, ordered_map
from raycap.storage.stores import ImageReader, digest_of, open_store

_THREADS_WITH_IMAGES = 2
_IMAGE_THREADS = 8

_Found = tuple[str, str | None, str, bytes | None]  # id, address, digest, embedded bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionDataset:
    """A complete caption dataset; see `open_dataset`."""

    store: Store
    config: StorageConfig
    record: DatasetRecord
    index: pa.Table
    """PART_INDEX."""

    @property
    def splits(self) -> list[str]:
        """Splits with images, in the order train, validation, test, others."""
        return list(self.record.splits)

    def parts(self, split: str) -> list[str]:
        """Return the keys of a split's parts, in the order of image ids.

        Raises:
            DatasetError: there is no such split.
        """
        return [entry[KEY] for entry in self._entries([split])]

    def pages(
        self, splits: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Read parts in order of number: all ids of a part precede those of the next.

        Only the given columns are read: text is a small share of a dataset.

        Args:
            splits: names of splits; None: all.
            columns: columns of DATASET; None: all. With images, tables have about 8 MB.

        Raises:
            DatasetError: there is no such split, or a part is damaged.
            StorageError: the store refuses.
        """
        names = list(columns or schema.DATASET.names)
        entries = self._entries(splits)
        with_images = schema.BYTES in names
        yield from ordered_chain(
            (self._read(entry, names) for entry in entries),
            _THREADS_WITH_IMAGES if with_images else self.config.list_threads,
            depth=1,
        )

    def references(self, splits: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read the captions as REFERENCES, sorted by image id; raises like `pages`."""
        names = schema.REFERENCES.names

        def read(entries: list[dict[str, Any]]) -> pa.Table:
            tables = [table for entry in entries for table in self._read(entry, names)]
            return pa.concat_tables(tables).sort_by(schema.IMAGE_ID).cast(schema.REFERENCES)

        of_part = groupby(self._entries(splits), key=lambda entry: entry[schema.PART])
        groups = (list(entries) for _, entries in of_part)
        yield from ordered_map(read, groups, self.config.list_threads)

    def images(self, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Read image files by ids, in no particular order; unknown ids are skipped.

        Only the row groups that contain them are read, or the files of referenced images.

        Raises:
            ObjectNotFound: a referenced image no longer exists, or has changed since.
            DatasetError: a part is damaged.
            StorageError: a store refuses.
        """
        reader = ImageReader(self.config)
        limit = self.record.config.get("image", {}).get("max_bytes", ImageConfig().max_bytes)

        def read(found: _Found) -> tuple[str, bytes]:
            image_id, uri, digest, data = found
            if data is None:
                data = reader.read(uri or "", limit)
                check_unchanged(uri or "", data, digest)
            return image_id, data

        yield from ordered_map(read, self._rows_of(ids, [schema.BYTES]), _IMAGE_THREADS)

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of image files by ids, without reading the files."""
        return {image_id: digest for image_id, _, digest, _ in self._rows_of(ids, [])}

    def _rows_of(self, ids: Sequence[str], more: list[str]) -> Iterator[_Found]:
        wanted = sorted(set(ids))
        firsts, lasts = self.index[FIRST].to_pylist(), self.index[LAST].to_pylist()
        spans = zip(self.index.to_pylist(), firsts, lasts, strict=True)
        candidates = (
            self._find(entry, wanted[bisect_left(wanted, first) : bisect_right(wanted, last)], more)
            for entry, first, last in spans
            if bisect_left(wanted, first) < bisect_right(wanted, last)
        )
        return ordered_chain(candidates, _THREADS_WITH_IMAGES)

    def _entries(self, splits: Sequence[str] | None) -> list[dict[str, Any]]:
        """Return the index of some splits; None: of all."""
        rows: list[dict[str, Any]] = self.index.to_pylist()
        if splits is None:
            return rows
        unknown = [split for split in splits if split not in self.record.splits]
        if unknown:
            raise DatasetError(
                f"{self.store.uri}: has no split {unknown[0]!r}; there are: "
                f"{', '.join(self.splits)}",
                uri=self.store.uri,
            )
        return [row for row in rows if row[schema.SPLIT] in splits]

    def _read(self, entry: dict[str, Any], columns: list[str]) -> Iterator[pa.Table]:
        return read_part(self.store, entry[KEY], entry[schema.NUM_BYTES], columns)

    def _find(self, entry: dict[str, Any], wanted: list[str], more: list[str]) -> Iterator[_Found]:
        values = pa.array(wanted, pa.string())
        with open_part(self.store, entry[KEY], entry[schema.NUM_BYTES]) as file:
            for number in _row_groups(file, wanted):
                # The ids first: most row groups have none of them, and their images are not read.
                ids = file.read_row_group(number, [schema.IMAGE_ID])[schema.IMAGE_ID]
                rows = pc.indices_nonzero(pc.is_in(ids, value_set=values))
                if len(rows):
                    names = [schema.URI, schema.DIGEST, *more]
                    table = file.read_row_group(number, names).take(rows)
                    columns = [ids.take(rows), *(table[name] for name in names)]
                    found = zip(*(column.to_pylist() for column in columns), strict=True)
                    yield from found if more else ((*row, None) for row in found)


def check_unchanged(uri: str, data: bytes, digest: str | None) -> None:
    """Make sure that a referenced image is the one that the dataset was made of.

    Raises:
        ObjectNotFound: it has another digest.
    """
    if digest is not None and digest_of(data) != digest:
        shown = redact(uri)
        raise ObjectNotFound(
            f"{shown}: has changed since the dataset was prepared; prepare it again into a new "
            "output",
            uri=shown,
        )


def _row_groups(file: pq.ParquetFile, wanted: list[str]) -> Iterator[int]:
    """Yield the row groups that may contain one of some sorted ids, by their statistics."""
    column = file.schema_arrow.get_field_index(schema.IMAGE_ID)
    for number in range(file.num_row_groups):
        found = file.metadata.row_group(number).column(column).statistics
        # Very long ids have no statistics.
        is_known = found is not None and found.has_min_max
        if not is_known or bisect_left(wanted, found.min) < bisect_right(wanted, found.max):
            yield number


def open_dataset(uri: str | Path, config: StorageConfig) -> CaptionDataset:
    """Open a caption dataset.

    Raises:
        ConfigError: it is not an address of a store.
        DatasetError: it does not exist, is unfinished or damaged.
        StorageError: the store refuses.
    """
    store = open_store(str(uri), config)
    record = read_record(store)
    index = read_table(store, INDEX, PART_INDEX)
    return CaptionDataset(store=store, config=config, record=record, index=index)


def identify(dataset: CaptionDataset) -> dict[str, Any]:
    """Return the identity of a dataset's content, independent of its address."""
    return {
        "source": dataset.record.source,
        "num_images": dataset.record.num_images,
        "num_captions": dataset.record.num_captions,
        "parts": hashlib.sha256(dataset.store.read(INDEX)).hexdigest(),
    }
