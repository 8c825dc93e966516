"""The last files of a dataset: what was rejected, the index of the parts, and the record."""

import heapq
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.config import PrepareConfig
from raycap.datasets.parts import (
    FIRST,
    LAST,
    NUM_CAPTIONS,
    NUM_IMAGES,
    PART_INDEX,
    RowGroupWriter,
    encode_table,
    part_key,
    read_part,
)
from raycap.datasets.planning import PLANNED_REJECTIONS, Plan, rejected_row
from raycap.datasets.record import (
    INDEX,
    REJECTED,
    DatasetRecord,
    Duplicates,
    SplitSummary,
)
from raycap.datasets.splits import split_order
from raycap.datasets.survey import (
    count_lengths,
    count_megapixels,
    count_rejected,
    count_words,
    find_leakage,
    part_rows,
    rejections,
    source_bytes,
    spread,
)
from raycap.errors import DatasetError
from raycap.metrics.tokenizer import TOKENIZER
from raycap.records import now, versions
from raycap.storage.base import KEY, Store

Row = dict[str, Any]


def write_rejected(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Write `rejected.parquet`, sorted by image id: an image's own row, then its captions."""
    rows = heapq.merge(
        _planned_rejections(store),
        map(rejected_row, rejections(database)),
        key=lambda row: row[schema.IMAGE_ID],
    )
    with tempfile.TemporaryDirectory(prefix="raycap-rejected-") as folder:
        path = Path(folder) / "rejected.parquet"
        writer = RowGroupWriter(path, schema.REJECTED)
        for row in rows:
            writer.write(row, len(row[schema.CAPTION] or ""))
        writer.close()
        store.upload(REJECTED, path)


def _planned_rejections(store: Store) -> Iterator[Row]:
    num_bytes = store.size(PLANNED_REJECTIONS)
    for table in read_part(store, PLANNED_REJECTIONS, num_bytes, schema.REJECTED.names):
        yield from table.to_pylist()


def write_index(database: duckdb.DuckDBPyConnection, store: Store, plan: Plan) -> pa.Table:
    """Write `parts.parquet`, and return it.

    Raises:
        DatasetError: a part is not there.
    """
    sizes: dict[str, int] = {}
    for split in plan.splits:
        for page in store.list(f"{split}/"):
            names, num_bytes = page[KEY].to_pylist(), page[schema.SIZE_BYTES].to_pylist()
            sizes |= dict(zip(names, num_bytes, strict=True))
    rows = []
    for number, split, num_images, num_captions, first, last in part_rows(database):
        key = part_key(f"{split}/", number)
        if key not in sizes:
            raise DatasetError(
                f"{store.address(key)}: has gone; prepare the dataset again in a new output"
            )
        rows.append(
            {
                KEY: key,
                schema.SPLIT: split,
                schema.PART: number,
                NUM_IMAGES: num_images,
                NUM_CAPTIONS: num_captions,
                schema.NUM_BYTES: sizes[key],
                FIRST: first,
                LAST: last,
            }
        )
    index = pa.Table.from_pylist(rows, schema=PART_INDEX)
    store.write(INDEX, encode_table(index, PART_INDEX))
    return index


def sum_up(
    database: duckdb.DuckDBPyConnection,
    plan: Plan,
    index: pa.Table,
    duplicates: Duplicates,
    config: PrepareConfig,
) -> DatasetRecord:
    """Make the record of a dataset of which every part is built.

    Raises:
        DatasetError: an image or a caption of the source is unaccounted for.
    """
    splits = _splits(index, count_lengths(database))
    unread = count_rejected(database)
    record = DatasetRecord(
        source=plan.fingerprint["source"],
        format=plan.fingerprint["format"],
        num_images=sum(split.num_images for split in splits.values()),
        num_captions=sum(split.num_captions for split in splits.values()),
        splits=splits,
        rejected_images=_by_name(plan.rejected_images, {c: n for c, (n, _) in unread.items()}),
        rejected_captions=_by_name(plan.rejected_captions, {c: n for c, (_, n) in unread.items()}),
        num_images_not_in_subset=plan.num_images_not_in_subset,
        num_captions_not_in_subset=plan.num_captions_not_in_subset,
        num_source_images=plan.num_source_images,
        num_source_captions=plan.num_source_captions,
        num_source_bytes=source_bytes(database),
        duplicates=duplicates,
        leakage=find_leakage(database),
        tokenizer=TOKENIZER,
        vocabulary_size=count_words(database),
        width_px=spread(database, schema.WIDTH_PX),
        height_px=spread(database, schema.HEIGHT_PX),
        megapixels=count_megapixels(database),
        config=config.model_dump(mode="json"),
        fingerprint=plan.fingerprint,
        versions=versions(),
        created_at=now(),
    )
    _check_sums(record)
    return record


def _by_name(*counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted((name, count) for part in counts for name, count in part.items()))


def _splits(index: pa.Table, lengths: dict[str, dict[int, int]]) -> dict[str, SplitSummary]:
    sums = index.group_by(schema.SPLIT).aggregate(
        [(name, "sum") for name in (NUM_IMAGES, NUM_CAPTIONS, schema.NUM_BYTES)]
    )
    found = {}
    for row in sorted(sums.to_pylist(), key=lambda row: split_order(row[schema.SPLIT])):
        histogram = lengths[row[schema.SPLIT]]
        num_tokens = sum(length * count for length, count in histogram.items())
        found[row[schema.SPLIT]] = SplitSummary(
            num_images=row[f"{NUM_IMAGES}_sum"],
            num_captions=row[f"{NUM_CAPTIONS}_sum"],
            num_bytes=row[f"{schema.NUM_BYTES}_sum"],
            mean_tokens=round(num_tokens / row[f"{NUM_CAPTIONS}_sum"], 4),
            lengths=histogram,
        )
    return found


def _check_sums(record: DatasetRecord) -> None:
    """Make sure that nothing was dropped silently."""
    images = (
        record.num_images + sum(record.rejected_images.values()) + record.num_images_not_in_subset
    )
    captions = (
        record.num_captions
        + sum(record.rejected_captions.values())
        + record.num_captions_not_in_subset
    )
    if (images, captions) != (record.num_source_images, record.num_source_captions):
        raise DatasetError(
            f"{record.source}: has {record.num_source_images} images and "
            f"{record.num_source_captions} captions, but {images} and {captions} are kept, "
            "rejected or not in the subset; this is a fault of raycap: please report it"
        )
