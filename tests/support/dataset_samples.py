"""Caption datasets written by hand: a few rows a split, no Ray needed."""

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.parts import PART_INDEX, SplitWriter, encode_table
from raycap.demo.scenes import long_captions, write_scenes
from raycap.results.dataset import (
    INDEX,
    REJECTED,
    DatasetRecord,
    Duplicates,
    Leakage,
    SplitSummary,
    Spread,
    write_record,
)
from raycap.storage.parts import part_key
from raycap.storage.stores import digest_of, open_store

Rows = list[dict[str, Any]]


def dataset_row(image_id: str, split: str, captions: list[str], **changes: Any) -> dict[str, Any]:
    """Give a row of a dataset that holds no image file."""
    return {
        schema.IMAGE_ID: image_id,
        schema.SOURCE_ID: None,
        schema.URI: f"/images/{image_id}",
        schema.BYTES: None,
        schema.CAPTIONS_LIST: captions,
        schema.SPLIT: split,
        schema.WIDTH_PX: 64,
        schema.HEIGHT_PX: 48,
        schema.DIGEST: image_id,
        **changes,
    }


def rejected_row(image_id: str, reason: str, **changes: Any) -> dict[str, Any]:
    """Give the row of what was left out."""
    row = dict.fromkeys(schema.REJECTED.names)
    return row | {schema.IMAGE_ID: image_id, schema.REASON: reason, **changes}


def write_dataset(
    folder: Path, rows: Rows, rejected: Rows, *, embedded: bool, **changes: Any
) -> str:
    """Write a dataset of one part; `rows` are sorted by id; `changes` are of its record."""
    store = open_store(str(folder), StorageConfig())
    with SplitWriter(store, 0) as writer:
        for row in rows:
            writer.write(row)
        writer.commit([])
    splits = {split: [r for r in rows if r[schema.SPLIT] == split] for split in _splits(rows)}
    index = [_entry(folder, split, of) for split, of in splits.items()]
    columns = list(zip(*index, strict=True))
    store.write(INDEX, encode_table(pa.table(columns, schema=PART_INDEX), PART_INDEX))
    table = pa.Table.from_pylist(rejected, schema=schema.REJECTED)
    store.write(REJECTED, encode_table(table, schema.REJECTED))
    write_record(store, _record(rows, splits, rejected, embedded=embedded, **changes))
    return store.uri


def _entry(folder: Path, split: str, rows: Rows) -> tuple[object, ...]:
    """Give the PART_INDEX row of a split's only part."""
    key = part_key(f"{split}/", 0)
    num_captions = sum(len(row[schema.CAPTIONS_LIST]) for row in rows)
    num_bytes = (folder / key).stat().st_size
    ids = [row[schema.IMAGE_ID] for row in rows]
    return key, split, 0, len(rows), num_captions, num_bytes, ids[0], ids[-1]


def _splits(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row[schema.SPLIT] for row in rows))


def _record(
    rows: Rows, splits: dict[str, Rows], rejected: Rows, *, embedded: bool, **changes: Any
) -> DatasetRecord:
    reasons = [(row[schema.REASON], row[schema.CAPTION] is None) for row in rejected]
    values: dict[str, Any] = {
        "source": "/annotations/scenes.json",
        "format": "coco",
        "num_images": len(rows),
        "num_captions": sum(len(row[schema.CAPTIONS_LIST]) for row in rows),
        "splits": {split: _summary(of) for split, of in splits.items()},
        "rejected_images": dict(Counter(reason for reason, is_image in reasons if is_image)),
        "rejected_captions": dict(Counter(reason for reason, is_image in reasons if not is_image)),
        "num_images_not_in_subset": 0,
        "num_captions_not_in_subset": 0,
        "num_source_images": len(rows),
        "num_source_captions": len(rows),
        "num_source_bytes": 1_000_000,
        "duplicates": Duplicates(num_groups=1, num_images=2, num_moved=1),
        "leakage": Leakage(num_groups=0, num_images=0),
        "tokenizer": "raycap-1",
        "vocabulary_size": 41,
        "width_px": Spread(min=60, median=64, max=320),
        "height_px": Spread(min=40, median=48, max=320),
        "megapixels": {"0-0.25": len(rows)},
        "config": {"embed": {"enabled": embedded}, "split": {"seed": 0}},
        "fingerprint": {},
        "versions": {"raycap": "0.1.0"},
        "created_at": "2026-11-24T07:00:00+00:00",
    }
    return DatasetRecord(**values | changes)


def _summary(rows: Rows) -> SplitSummary:
    lengths = [len(text.split()) for row in rows for text in row[schema.CAPTIONS_LIST]]
    return SplitSummary(
        num_images=len(rows),
        num_captions=len(lengths),
        num_bytes=1000 * len(rows),
        mean_tokens=fmean(lengths),
        lengths=dict(Counter(lengths)),
    )


def scene_dataset(folder: Path, num_scenes: int = 40, *, embedded: bool = True) -> str:
    """Render scenes into a dataset of three splits; its images are gone if they are embedded."""
    images = folder / "images"
    rows = []
    for number, (name, scene) in enumerate(write_scenes(images, num_scenes, seed=11)):
        split = {0: "test", 1: "validation"}.get(number % 10, "train")
        data = (images / name).read_bytes()
        file = {schema.BYTES: data if embedded else None, schema.DIGEST: digest_of(data)}
        rows.append(dataset_row(name, split, long_captions(scene), **file, uri=str(images / name)))
        if embedded:
            (images / name).unlink()
    rejected = [
        rejected_row("x-half.jpg", "decode_failed", message="JPEG: image file is truncated"),
        rejected_row("y.jpg", "empty_caption", caption="  ...  "),
        rejected_row("z.jpg", "no_caption"),
    ]
    return write_dataset(folder / "dataset", rows, rejected, embedded=embedded)
