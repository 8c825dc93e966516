"""The stream, on Ray Data: work -> gather files -> load pixels -> the workers in turn.

One stream lasts for the whole run, including the samples for validation, so no epoch waits for a
stream to start. Ray Data keeps the order, applies backpressure, and repeats the work of a task that
died. The second stage is here too: it decodes files, and augments them for training.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from jaxtyping import UInt8
from ray.data import DataContext, DataIterator, TaskPoolStrategy

from raycap.cluster.streaming import blocks_of, stream_context
from raycap.config import AugmentConfig, StorageConfig
from raycap.datasets.dataset import check_unchanged
from raycap.errors import UNREADABLE, ErrorCode, ImageError
from raycap.images.decoding import Target, decode, prepare_process
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader
from raycap.training.data.augmentation import Augmentation
from raycap.training.data.gathering import StreamSpec, gather
from raycap.training.data.pieces import (
    EPOCH,
    FIRST,
    KIND,
    WINDOW,
    WORK,
    Kind,
    Piece,
    loaded_table,
    read_gathered,
)
from raycap.training.data.plan import draw_seed

_GATHER_TASKS = 2
"""Windows in memory: the current one and the next."""
_GATHER_CPUS = 0.25
"""It mostly waits for storage. Must differ from loading, or Ray merges the two stages."""
_FETCH_THREADS = 16


def start_stream(
    spec: StreamSpec, *, epoch: int, step: int, num_epochs: int, debug: bool
) -> list[DataIterator]:
    """Start the stream at a step of an epoch; it ends with the last epoch.

    Returns:
        One iterator per worker; all must be read concurrently. Each block is one LOADED row.
    """
    gathering: Any = gather  # Ray's annotations know no Arrow tables
    loading: Any = load
    work = pa.Table.from_pylist(list(work_from(spec, epoch, step, num_epochs)), schema=WORK)
    # One piece per block, because blocks go to the workers in turn. The stream may pause while
    # validation runs; `Feed` detects a worker that waits too long.
    context = stream_context(block_bytes=1, stall_timeout_s=None, debug=debug)
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        stream = (
            ray.data.from_blocks(blocks_of(work))
            .map_batches(
                gathering,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"spec": spec},
                compute=TaskPoolStrategy(_GATHER_TASKS),
                num_cpus=_GATHER_CPUS,
            )
            .map_batches(
                loading,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={"spec": spec},
                num_cpus=1,
            )
        )
        # Ray gives each block to the worker with the fewest rows, the first of equals: in turn.
        return list(stream.streaming_split(spec.plan.num_workers, equal=False))


def work_from(spec: StreamSpec, epoch: int, step: int, num_epochs: int) -> Iterator[dict[str, Any]]:
    """Yield WORK rows: each epoch's windows, then its samples."""
    for number in range(epoch, num_epochs):
        for span in spec.plan.spans(number, step if number == epoch else 0):
            yield {
                KIND: Kind.TRAIN,
                EPOCH: number,
                WINDOW: span.window,
                FIRST: span.first_step,
            }
        for kind in (Kind.VALIDATION, Kind.FITTED):
            yield {KIND: kind, EPOCH: number, WINDOW: 0, FIRST: 0}


def load(table: pa.Table, spec: StreamSpec) -> pa.Table:
    """Turn a GATHERED row into a LOADED one. Unreadable images are left out, and named."""
    prepare_process(spec.image)
    torch.set_num_threads(1)  # other pieces are loaded concurrently
    piece = read_gathered(table)
    loaded = Piece(tag=piece.tag)
    pixels: list[UInt8[np.ndarray, "3 h w"]] = []
    for index, file in enumerate(_files(piece, spec)):
        try:
            pixels.append(_pixels(piece, index, file, spec))
        except ImageError as error:
            loaded.unreadable.append(f"{piece.image_ids[index]} ({error})")
            continue
        loaded.image_ids.append(piece.image_ids[index])
        loaded.steps.append(piece.steps[index])
        loaded.offsets.append(piece.offsets[index])
        loaded.captions.append(piece.captions[index])
        loaded.references.append(piece.references[index])
    shape = (0, 3, spec.target.height_px, spec.target.width_px)
    return loaded_table(loaded, np.stack(pixels) if pixels else np.empty(shape, np.uint8))


def original(file: bytes, spec: StreamSpec) -> UInt8[np.ndarray, "3 h w"]:
    """Decode an image without augmentation, as for captioning."""
    pixels = decode(file, spec.target, spec.image).pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def changed(file: bytes, epoch: int, image_id: str, spec: StreamSpec) -> UInt8[np.ndarray, "3 h w"]:
    """Decode and augment an image, as training sees it in one epoch."""
    augmentation = _augmentation(spec.augment, spec.target)
    pixels = decode(file, augmentation.source, spec.image).pixels
    image = augmentation(pixels, draw_seed(spec.plan.seed, "augment", epoch, image_id))
    return image.numpy()


def file_of(file: bytes | None, uri: str | None, digest: str | None, spec: StreamSpec) -> bytes:
    """Return an image's file; fetch it if the dataset has only its address.

    Raises:
        ImageError: there is no file, it cannot be fetched, or it has changed.
    """
    if file is not None:
        return file
    if uri is None:
        raise ImageError(ErrorCode.NOT_FOUND, "the dataset has neither its file nor its address")
    try:
        data = _reader(spec.storage).read(uri, spec.image.max_bytes)
        check_unchanged(uri, data, digest)
    except UNREADABLE as error:
        raise ImageError.of(error) from error
    return data


def _pixels(
    piece: Piece, index: int, file: bytes | ImageError, spec: StreamSpec
) -> UInt8[np.ndarray, "3 h w"]:
    if isinstance(file, ImageError):
        raise file
    if piece.tag.kind == Kind.TRAIN:
        return changed(file, piece.tag.epoch, piece.image_ids[index], spec)
    return original(file, spec)


def _files(piece: Piece, spec: StreamSpec) -> Iterator[bytes | ImageError]:
    """Yield the files of a piece in order; prefetch those with only an address."""
    num_threads = 1 if None not in piece.files else _FETCH_THREADS
    found = zip(piece.files, piece.uris, piece.digests, strict=True)
    yield from ordered_map(lambda image: _try_file(*image, spec), found, num_threads)


def _try_file(
    file: bytes | None, uri: str | None, digest: str | None, spec: StreamSpec
) -> bytes | ImageError:
    try:
        return file_of(file, uri, digest, spec)
    except ImageError as error:
        return error


@lru_cache(maxsize=4)
def _reader(config: StorageConfig) -> ImageReader:
    """Reuse connections between the tasks of a worker process."""
    return ImageReader(config)


@lru_cache(maxsize=4)
def _augmentation(config: AugmentConfig, target: Target) -> Augmentation:
    return Augmentation(config, target)
