"""First stage of the stream: read the images of a window, and divide them into pieces.

Image files travel as stored, ten to thirty times smaller than their pixels. A task holds the files
of one window in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from raycap import schema
from raycap.config import AugmentConfig, ImageConfig, StorageConfig
from raycap.datasets.parts import damaged, open_part
from raycap.images.decoding import Target
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import open_store
from raycap.text import count_words
from raycap.training.data.pieces import EPOCH, FIRST, KIND, WINDOW, Kind, Piece, Tag, gathered_table
from raycap.training.data.plan import EpochPlan, GroupRows, Rows, draw_seed, share_of

PIECE_IMAGES = 64
"""Approximate images per piece: fewer cost more task overhead, more delay a batch."""
SAMPLE_ROUND_IMAGES = 32
"""Images of a sample per worker and round."""

_READ_THREADS = 8
_COLUMNS = [schema.IMAGE_ID, schema.URI, schema.DIGEST, schema.BYTES, schema.CAPTIONS_LIST]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamSpec:
    """Everything that the stages of the stream need to know about a run."""

    dataset: str
    """Address of the dataset."""
    plan: EpochPlan
    samples: dict[str, list[GroupRows]]
    """Images of each sample."""
    augment: AugmentConfig
    image: ImageConfig
    storage: StorageConfig
    target: Target
    """Pixel format that the model expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image as stored in the dataset."""

    image_id: str
    uri: str | None
    digest: str | None
    """Of the file at its address."""
    file: Callable[[], bytes | None]
    """Copies its file out of the table; returns None if only its address is known."""
    captions: list[str]


def gather(work: pa.Table, spec: StreamSpec) -> Iterator[pa.Table]:
    """Read the images of WORK rows; yield GATHERED tables of one piece each, worker by worker."""
    for row in work.to_pylist():
        if row[KIND] == Kind.TRAIN:
            yield from _gather_window(row[EPOCH], row[WINDOW], row[FIRST], spec)
        else:
            yield from _gather_sample(row[KIND], row[EPOCH], spec)


def _gather_window(epoch: int, window: int, first: int, spec: StreamSpec) -> Iterator[pa.Table]:
    plan = spec.plan
    images = list(read_images(plan.window_rows(epoch, window), spec))
    chosen = [_chosen(image, epoch, spec) for image in images]
    num_words = np.array([max(map(count_words, captions)) for captions in chosen])
    start = window * plan.steps_per_window
    steps = plan.window_steps(epoch, window, num_words)[first - start :]
    together = max(1, PIECE_IMAGES // plan.batch_size)
    for at in range(0, len(steps), together):
        dealt = _deal(steps[at : at + together], chosen, plan)
        tag = _TagMaker(Kind.TRAIN, epoch, first + at, len(steps[at : at + together]))
        yield from _pieces(dealt, images, chosen, tag)


def _gather_sample(kind: str, epoch: int, spec: StreamSpec) -> Iterator[pa.Table]:
    rows = spec.samples[kind]
    left = sum(len(group.rows) for group in rows)
    reading = read_images(rows, spec)
    number = 0
    while left > 0:
        images = list(islice(reading, spec.plan.num_workers * SAMPLE_ROUND_IMAGES))
        left -= len(images)
        # Always the same caption per image, so that losses are comparable between epochs.
        chosen = [
            [image.captions[draw_seed("sample", image.image_id) % len(image.captions)]]
            for image in images
        ]
        dealt = _deal([np.arange(len(images))], chosen, spec.plan)
        tag = _TagMaker(kind, epoch, number, 1, is_last=left <= 0)
        yield from _pieces(dealt, images, chosen, tag)
        number += 1


@dataclass(frozen=True, slots=True)
class _TagMaker:
    """Makes the tags of all pieces of some steps."""

    kind: str
    epoch: int
    first: int
    num_steps: int
    is_last: bool = False

    def tag(self, piece: int, num_pieces: int, worker: int) -> Tag:
        return Tag(
            kind=self.kind,
            epoch=self.epoch,
            first=self.first,
            num_steps=self.num_steps,
            piece=piece,
            num_pieces=num_pieces,
            worker=worker,
            is_last=self.is_last,
        )


@dataclass(frozen=True, slots=True)
class _Dealt:
    """One image of a step: its index in the window, its step, and its caption offset there."""

    index: int
    step: int
    offset: int


def _deal(steps: list[Rows], chosen: list[list[str]], plan: EpochPlan) -> list[list[_Dealt]]:
    """Divide the images of some steps, counted from 0, among the workers."""
    hands: list[list[_Dealt]] = [[] for _ in range(plan.num_workers)]
    for number, step in enumerate(steps):
        counts = np.array([len(chosen[index]) for index in step])
        offsets = np.cumsum(counts) - counts
        dealt = [
            _Dealt(int(index), number, int(offset))
            for index, offset in zip(step, offsets, strict=True)
        ]
        for worker, hand in enumerate(hands):
            hand += dealt[share_of(len(dealt), plan.num_workers, worker)]
    return hands


def _pieces(
    hands: list[list[_Dealt]], images: list[StoredImage], chosen: list[list[str]], tags: _TagMaker
) -> Iterator[pa.Table]:
    """Cut every worker's images into the same number of pieces, and yield them in turn."""
    num_pieces = max(1, -(-max(map(len, hands)) // PIECE_IMAGES))
    for piece in range(num_pieces):
        for worker, hand in enumerate(hands):
            mine = hand[piece * PIECE_IMAGES : (piece + 1) * PIECE_IMAGES]
            tag = tags.tag(piece, num_pieces, worker)
            yield gathered_table(_piece(mine, images, chosen, tag))


def _piece(
    dealt: Sequence[_Dealt], images: list[StoredImage], chosen: list[list[str]], tag: Tag
) -> Piece:
    piece = Piece(tag=tag)
    for item in dealt:
        image = images[item.index]
        piece.image_ids.append(image.image_id)
        piece.steps.append(tag.first + item.step)
        piece.offsets.append(item.offset)
        piece.captions.append(chosen[item.index])
        piece.references.append([] if tag.kind == Kind.TRAIN else image.captions)
        piece.uris.append(image.uri)
        piece.digests.append(image.digest)
        piece.files.append(image.file())
    return piece


def _chosen(image: StoredImage, epoch: int, spec: StreamSpec) -> list[str]:
    """Choose the captions of an image for one epoch of training."""
    if spec.augment.captions == "all":
        return image.captions
    seed = draw_seed(spec.plan.seed, "caption", epoch, image.image_id)
    return [image.captions[seed % len(image.captions)]]


def read_images(rows: Sequence[GroupRows], spec: StreamSpec) -> Iterator[StoredImage]:
    """Read images in order, prefetching some row groups."""
    store = _store(spec.dataset, spec.storage)
    for table in ordered_map(lambda group: _read_group(store, group), rows, _READ_THREADS):
        yield from _images(table)


def _read_group(store: Store, wanted: GroupRows) -> pa.Table:
    try:
        with open_part(store, wanted.key, wanted.num_bytes) as file:
            table = file.read_row_group(wanted.group, columns=_COLUMNS)
        if isinstance(wanted.rows, range):
            return table.slice(wanted.rows.start, len(wanted.rows))
        return table.take(pa.array(wanted.rows))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(store, wanted.key) from error


def _images(table: pa.Table) -> Iterator[StoredImage]:
    files = table[schema.BYTES]
    texts = table.drop_columns([schema.BYTES]).to_pylist()
    for index, row in enumerate(texts):
        yield StoredImage(
            image_id=row[schema.IMAGE_ID],
            uri=row[schema.URI],
            digest=row[schema.DIGEST],
            file=_lazy(files, index),
            captions=row[schema.CAPTIONS_LIST],
        )


def _lazy(files: Any, index: int) -> Callable[[], bytes | None]:
    """Copy a file out of its table only on demand."""
    return lambda: files[index].as_py()


@lru_cache(maxsize=4)
def _store(dataset: str, config: StorageConfig) -> Store:
    """Reuse the dataset's client between the tasks of a worker process."""
    return open_store(dataset, config)
