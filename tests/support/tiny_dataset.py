"""Small caption datasets, written part by part without preparing them from a source."""

from io import BytesIO
from itertools import product

import numpy as np
import pyarrow as pa
from PIL import Image

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.parts import (
    FIRST,
    LAST,
    NUM_CAPTIONS,
    NUM_IMAGES,
    PART_INDEX,
    SplitWriter,
    encode_table,
)
from raycap.results.dataset import (
    INDEX,
    DatasetRecord,
    Duplicates,
    Leakage,
    SplitSummary,
    Spread,
    write_record,
)
from raycap.storage.base import KEY, Store
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
PLACES = ("top", "bottom")
SCENES = list(product(COLOURS, PLACES))
SIDE_PX = 24


def scene(number: int) -> tuple[bytes, list[str]]:
    """A picture with a coloured half, a little different each time, and two captions of it."""
    colour, place = SCENES[number % len(SCENES)]
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 130, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    half = slice(0, SIDE_PX // 2) if place == "top" else slice(SIDE_PX // 2, None)
    pixels[half] = COLOURS[colour]
    captions = [f"the {place} is {colour}", f"a picture with {colour} at the {place} of it"]
    return picture(pixels), captions


def picture(pixels: np.ndarray) -> bytes:
    """Encode pixels as a PNG."""
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def row_of(number: int, split: str, *, file: bytes | None = None) -> dict[str, object]:
    """A DATASET row of a scene, or of a file of its own."""
    drawn, captions = scene(number)
    return {
        schema.IMAGE_ID: f"{number:06d}.png",
        schema.SOURCE_ID: None,
        schema.URI: None,
        schema.BYTES: drawn if file is None else file,
        schema.CAPTIONS_LIST: captions,
        schema.SPLIT: split,
        schema.WIDTH_PX: SIDE_PX,
        schema.HEIGHT_PX: SIDE_PX,
        schema.DIGEST: f"{number:x}",
    }


def write_dataset(uri: str, *splits: str, part_size: int = 16, **files: bytes) -> Store:
    """Write a dataset of the given splits, such as `train:40`; return its store.

    `files` gives some images files of their own, such as `n000003=b"..."` for `000003.png`.
    """
    store = open_store(uri, StorageConfig())
    entries: list[dict[str, object]] = []
    number = 0
    for split, _, count in (item.partition(":") for item in splits):
        for start in range(0, int(count), part_size):
            rows = [
                row_of(number + index, split, file=files.get(f"n{number + index:06d}"))
                for index in range(min(part_size, int(count) - start))
            ]
            entries.append(_write_part(store, split, len(entries), rows))
            number += len(rows)
    index = pa.Table.from_pylist(entries, schema=PART_INDEX)
    store.write(INDEX, encode_table(index, PART_INDEX))
    write_record(store, _record(entries))
    return store


def _write_part(
    store: Store, split: str, number: int, rows: list[dict[str, object]]
) -> dict[str, object]:
    with SplitWriter(store, number) as writer:
        for row in rows:
            writer.write(row)
        writer.commit(())
    key = part_key(f"{split}/", number)
    return {
        KEY: key,
        schema.SPLIT: split,
        schema.PART: number,
        NUM_IMAGES: len(rows),
        NUM_CAPTIONS: 2 * len(rows),
        schema.NUM_BYTES: len(store.read(key)),
        FIRST: rows[0][schema.IMAGE_ID],
        LAST: rows[-1][schema.IMAGE_ID],
    }


def _record(entries: list[dict[str, object]]) -> DatasetRecord:
    counts: dict[str, int] = {}
    for entry in entries:
        split = str(entry[schema.SPLIT])
        counts[split] = counts.get(split, 0) + int(str(entry[NUM_IMAGES]))
    total = sum(counts.values())
    return DatasetRecord(
        source="scenes",
        format="scenes",
        num_images=total,
        num_captions=2 * total,
        splits={
            split: SplitSummary(
                num_images=count, num_captions=2 * count, num_bytes=0, mean_tokens=6.0, lengths={}
            )
            for split, count in counts.items()
        },
        rejected_images={},
        rejected_captions={},
        num_images_not_in_subset=0,
        num_captions_not_in_subset=0,
        num_source_images=total,
        num_source_captions=2 * total,
        num_source_bytes=0,
        duplicates=Duplicates(num_groups=0, num_images=0, num_moved=0),
        leakage=Leakage(num_groups=0, num_images=0),
        tokenizer="none",
        vocabulary_size=12,
        width_px=Spread(min=SIDE_PX, median=SIDE_PX, max=SIDE_PX),
        height_px=Spread(min=SIDE_PX, median=SIDE_PX, max=SIDE_PX),
        megapixels={},
        config={},
        fingerprint={},
    )
