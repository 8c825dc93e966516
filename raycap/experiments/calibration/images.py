"""The slice of a split: the same images every time, decoded once and kept by Ray as bytes."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from jaxtyping import UInt8
from ray.exceptions import RayError

from raycap.cluster.failures import explain
from raycap.config import ImageConfig, StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import DatasetError, ImageError, ObjectNotFound, TransientError
from raycap.experiments.calibration.record import REMEDY
from raycap.images.decoding import Target, decode, prepare_process
from raycap.schema import CAPTIONS_LIST, IMAGE_ID
from raycap.storage.parallel import ordered_map

_THREADS = 4
_LOADS_AT_ONCE = 8
_FEWEST = 2  # of a single image every CIDEr-D is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """What a worker needs to know to read images."""

    dataset: str
    storage: StorageConfig
    image: ImageConfig
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedSlice:
    """Images in Ray's memory, with what people wrote of them; sorted by id."""

    image_ids: list[str]
    references: list[list[str]]
    blocks: list[Any]
    """References of Ray to uint8 `[b, H, W, 3]`, all images in order."""
    unreadable: list[str]
    """Ids, and why."""

    @property
    def digest(self) -> str:
        """SHA-256 over the ids, in hex."""
        return hashlib.sha256("\n".join(self.image_ids).encode()).hexdigest()


def choose_images(dataset: CaptionDataset, split: str, count: int) -> dict[str, list[str]]:
    """Draw images of a split by a hash of their ids; return their captions by id, sorted.

    The same ones every time; of a smaller count, a part of those of a larger one.

    Raises:
        DatasetError: there is no such split, it has too few images, or is damaged.
        StorageError: the store refuses.
    """
    rows = (
        row
        for page in dataset.pages([split], [IMAGE_ID, CAPTIONS_LIST])
        for row in zip(page[IMAGE_ID].to_pylist(), page[CAPTIONS_LIST].to_pylist(), strict=True)
    )
    drawn = heapq.nsmallest(count, rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())
    if len(drawn) < _FEWEST:
        raise DatasetError(
            f"{dataset.store.uri}: its split {split!r} has {len(drawn)} image, which is too few to "
            "compare settings on; prepare it with a larger split.validation, or give another split"
        )
    return dict(sorted(drawn))


def load_images(chosen: dict[str, list[str]], spec: LoadSpec, block_size: int) -> LoadedSlice:
    """Read and decode images on the cluster, each once. Ray must be connected.

    Raises:
        DatasetError: fewer than two of them can be read, or the dataset is damaged.
        StorageError: a store refuses.
    """
    ids = list(chosen)
    # Named, as a task within a trial of Ray Tune would else have to fit into what that reserved.
    load = ray.remote(num_cpus=1, num_returns=2, scheduling_strategy="DEFAULT")(load_block)
    loaded = LoadedSlice(image_ids=[], references=[], blocks=[], unreadable=[])
    starts = range(0, len(ids), block_size)
    for pixels, told in _in_turn(load, [ids[at : at + block_size] for at in starts], spec):
        read, unreadable = told
        loaded.unreadable.extend(unreadable)
        if read:
            loaded.image_ids.extend(read)
            loaded.references.extend(chosen[image_id] for image_id in read)
            loaded.blocks.append(pixels)
    if len(loaded.image_ids) < _FEWEST:
        raise DatasetError(
            f"{spec.dataset}: of {len(ids)} images {len(loaded.image_ids)} can be read "
            f"({loaded.unreadable[0]}); bring the images back, or prepare the dataset again with "
            "embed.enabled=true"
        )
    return loaded


def load_block(
    ids: Sequence[str], spec: LoadSpec
) -> tuple[UInt8[np.ndarray, "b h w 3"], tuple[list[str], list[str]]]:
    """Read and decode some images; in a worker.

    Returns:
        The pixels; and the ids of the images that could be read, in the order of the pixels,
        with those that could not, and why.
    """
    prepare_process(spec.image)
    dataset = open_dataset(spec.dataset, spec.storage)
    outcomes = dict(
        ordered_map(lambda item: (item[0], _decode(item[1], spec)), _files(dataset, ids), _THREADS)
    )
    read = [key for key in ids if not isinstance(outcomes[key], str)]
    unreadable = [f"{key} ({outcomes[key]})" for key in ids if isinstance(outcomes[key], str)]
    shape = (0, spec.target.height_px, spec.target.width_px, 3)
    pixels = np.stack([outcomes[key] for key in read]) if read else np.empty(shape, np.uint8)
    return pixels, (read, unreadable)


def _in_turn(
    load: Any, blocks: list[list[str]], spec: LoadSpec
) -> Iterator[tuple[Any, tuple[list[str], list[str]]]]:
    """Load blocks, a few at a time; yield them in order."""
    running: list[tuple[Any, Any]] = []
    try:
        for block in blocks:
            running.append(tuple(load.remote(block, spec)))
            if len(running) == _LOADS_AT_ONCE:
                pixels, told = running.pop(0)
                yield pixels, ray.get(told)
        for pixels, told in running:
            yield pixels, ray.get(told)
    except RayError as error:
        raise explain(error, REMEDY) from error


def _files(dataset: CaptionDataset, ids: Sequence[str]) -> Iterator[tuple[str, bytes | str]]:
    """Yield the files; in place of one that cannot be had, why."""
    try:
        yield from list(dataset.images(ids))
    except (ObjectNotFound, TransientError) as error:
        if len(ids) == 1:
            yield ids[0], str(error)
            return
        # One has gone, which does not say which of the others are there.
        for image_id in ids:
            yield from _files(dataset, [image_id])


def _decode(file: bytes | str, spec: LoadSpec) -> UInt8[np.ndarray, "h w 3"] | str:
    if isinstance(file, str):
        return file
    try:
        return decode(file, spec.target, spec.image).pixels
    except ImageError as error:
        return str(error)
