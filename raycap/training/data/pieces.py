"""Pieces: the unit that streams to the workers, one per table row.

A piece holds one worker's images of one or several steps, or a part of them. Its tag says where it
belongs, so that the worker can check that its pieces arrive complete and in order.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from raycap import schema

KIND = "kind"
EPOCH = "epoch"
WINDOW = "window"
FIRST = "first"
NUM_STEPS = "num_steps"
PIECE = "piece"
NUM_PIECES = "num_pieces"
WORKER = "worker"
IS_LAST = "is_last"
IMAGE_IDS = "image_ids"
STEPS = "steps"
OFFSETS = "offsets"
URIS = "uris"
DIGESTS = "digests"
FILES = "files"
UNREADABLE = "unreadable"


class Kind(StrEnum):
    """Purpose of images."""

    TRAIN = "train"
    """Training."""
    VALIDATION = "validation"
    """The validation sample."""
    FITTED = "fitted"
    """The sample of the training split, not augmented, that validation is compared with."""


WORK = pa.schema(
    [
        pa.field(KIND, pa.string(), nullable=False),
        pa.field(EPOCH, pa.int32(), nullable=False),
        pa.field(WINDOW, pa.int32(), nullable=False),
        pa.field(FIRST, pa.int32(), nullable=False),
    ]
)
"""A task of the gathering stage: a window from its step `first` on, or a whole sample."""

TAG = pa.schema(
    [
        pa.field(KIND, pa.string(), nullable=False),
        pa.field(EPOCH, pa.int32(), nullable=False),
        pa.field(FIRST, pa.int32(), nullable=False),
        pa.field(NUM_STEPS, pa.int32(), nullable=False),
        pa.field(PIECE, pa.int32(), nullable=False),
        pa.field(NUM_PIECES, pa.int32(), nullable=False),
        pa.field(WORKER, pa.int32(), nullable=False),
        pa.field(IS_LAST, pa.bool_(), nullable=False),
    ]
)
"""Columns of a `Tag`."""

_TEXTS = pa.list_(pa.list_(pa.string()))
IMAGES = pa.schema(
    [
        pa.field(IMAGE_IDS, pa.list_(pa.string()), nullable=False),
        pa.field(STEPS, pa.list_(pa.int32()), nullable=False),
        pa.field(OFFSETS, pa.list_(pa.int32()), nullable=False),
        pa.field(schema.CAPTIONS_LIST, _TEXTS, nullable=False),
        pa.field(schema.REFERENCE_CAPTIONS, _TEXTS, nullable=False),
    ]
)
"""Columns of a `Piece`: lists of equal length."""

GATHERED = pa.schema(
    [
        *TAG,
        *IMAGES,
        pa.field(URIS, pa.list_(pa.string()), nullable=False),
        pa.field(DIGESTS, pa.list_(pa.string()), nullable=False),
        pa.field(FILES, pa.list_(pa.large_binary()), nullable=False),
    ]
)
"""A piece as read: the image files, or null where only the address is known."""

LOADED = pa.schema(
    [
        *TAG,
        *IMAGES,
        pa.field(schema.PIXELS, pa.large_binary(), nullable=False),
        pa.field(UNREADABLE, pa.list_(pa.string()), nullable=False),
    ]
)
"""A piece as a worker receives it: `pixels` are uint8 `[B, 3, H, W]` of the images that could be
read; `unreadable` names the others with the reason, and no other list contains them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Position of a piece in the stream."""

    kind: str
    epoch: int
    first: int
    """Its first step within the epoch, or its round within the sample."""
    num_steps: int
    """Consecutive steps that it covers."""
    piece: int
    """Its number among the pieces of the worker's share of those steps."""
    num_pieces: int
    worker: int
    """The worker that receives it."""
    is_last: bool
    """Whether it is the last of its sample."""


@dataclass(slots=True, kw_only=True)
class Piece:
    """The images of a piece. All lists have the same length, as have the pixels."""

    tag: Tag
    image_ids: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """Step of each image."""
    offsets: list[int] = field(default_factory=list)
    """Number of captions of the same step before those of the image, over all workers."""
    captions: list[list[str]] = field(default_factory=list)
    """Captions of each image to train on or to measure."""
    references: list[list[str]] = field(default_factory=list)
    """All captions of each image; only in samples."""
    uris: list[str | None] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    """Of the files at these addresses."""
    files: list[bytes | None] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def gathered_table(piece: Piece) -> pa.Table:
    """Make a GATHERED row."""
    values = {**_shared(piece), URIS: piece.uris, DIGESTS: piece.digests, FILES: piece.files}
    return pa.Table.from_pylist([values], schema=GATHERED)


def read_gathered(table: pa.Table) -> Piece:
    """Read a GATHERED row."""
    row = _only_row(table)
    return Piece(**_lists(row), uris=row[URIS], digests=row[DIGESTS], files=row[FILES])


def loaded_table(piece: Piece, pixels: UInt8[np.ndarray, "b 3 h w"]) -> pa.Table:
    """Make a LOADED row. The pixels are not copied."""
    values = {**_shared(piece), UNREADABLE: piece.unreadable}
    names = [name for name in LOADED.names if name != schema.PIXELS]
    form = pa.schema([LOADED.field(name) for name in names])
    table = pa.Table.from_pylist([values], schema=form)
    ends = pa.py_buffer(np.array([0, pixels.nbytes], np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(pixels)])
    place = LOADED.get_field_index(schema.PIXELS)
    return table.add_column(place, LOADED.field(schema.PIXELS), column)


def read_loaded(
    table: pa.Table, size: tuple[int, int]
) -> tuple[Piece, UInt8[np.ndarray, "b 3 h w"]]:
    """Read a LOADED row of images of that height and width. The pixels are not copied."""
    row = _only_row(table.drop_columns([schema.PIXELS]))
    piece = Piece(**_lists(row), unreadable=row[UNREADABLE])
    data = table[schema.PIXELS][0].as_buffer()
    pixels = np.frombuffer(data, np.uint8).reshape(len(piece.image_ids), 3, *size)
    return piece, pixels


def _shared(piece: Piece) -> dict[str, Any]:
    return {
        **{name: getattr(piece.tag, name) for name in TAG.names},
        IMAGE_IDS: piece.image_ids,
        STEPS: piece.steps,
        OFFSETS: piece.offsets,
        schema.CAPTIONS_LIST: piece.captions,
        schema.REFERENCE_CAPTIONS: piece.references,
    }


def _lists(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "tag": Tag(**{name: row[name] for name in TAG.names}),
        "image_ids": row[IMAGE_IDS],
        "steps": row[STEPS],
        "offsets": row[OFFSETS],
        "captions": row[schema.CAPTIONS_LIST],
        "references": row[schema.REFERENCE_CAPTIONS],
    }


def _only_row(table: pa.Table) -> dict[str, Any]:
    rows: list[dict[str, Any]] = table.to_pylist()
    assert len(rows) == 1, "the stream has one piece per block"
    return rows[0]
