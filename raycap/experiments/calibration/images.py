"""The slice: a fixed choice of images of a split, decoded once and kept in Ray's object store."""

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
from raycap.experiments.calibration.trials import REMEDY
from raycap.images.decoding import Target, decode, prepare_process
from raycap.schema import CAPTIONS_LIST, IMAGE_ID
from raycap.storage.parallel import ordered_map

_THREADS = 4
_LOADS_AT_ONCE = 8
_FEWEST = 2  # the CIDEr-D of a single image is always 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """Everything that a worker needs to read images."""

    dataset: str
    storage: StorageConfig
    image: ImageConfig
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedSlice:
    """Images in Ray's object store, with their references; sorted by id."""

    image_ids: list[str]
    references: list[list[str]]
    blocks: list[Any]
    """Ray object references to uint8 `[b, H, W, 3]`; together all images in order."""
    unreadable: list[str]
    """Ids of unreadable images, each with the reason."""

    @property
    def digest(self) -> str:
        """SHA-256 over the ids, in hex."""
        return hashlib.sha256("\n".join(self.image_ids).encode()).hexdigest()


def choose_images(dataset: CaptionDataset, split: str, count: int) -> dict[str, list[str]]:
    """Draw images of a split by a hash of their ids; return their captions by id, sorted.

    The choice is the same every time, and a smaller count gives a subset of a larger one.

    Raises:
        DatasetError: the split does not exist, has too few images, or is damaged.
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
            f"{dataset.store.uri}: its split {split!r} has {len(drawn)} image, too few to compare "
            "settings; prepare it with a larger split.validation, or give another split",
            uri=dataset.store.uri,
        )
    return dict(sorted(drawn))


def load_images(chosen: dict[str, list[str]], spec: LoadSpec, block_size: int) -> LoadedSlice:
    """Read and decode images on the cluster, each once. Ray must be connected.

    Raises:
        DatasetError: fewer than two images can be read, or the dataset is damaged.
        StorageError: a store refuses.
    """
    ids = list(chosen)
    # Explicit, because a task of a Ray Tune trial would otherwise have to fit the resources that
    # the trial reserved.
    load = ray.remote(num_cpus=1, num_returns=2, scheduling_strategy="DEFAULT")(load_block)
    loaded = LoadedSlice(image_ids=[], references=[], blocks=[], unreadable=[])
    starts = range(0, len(ids), block_size)
    for pixels, ids_read in _in_turn(load, [ids[at : at + block_size] for at in starts], spec):
        read, unreadable = ids_read
        loaded.unreadable.extend(unreadable)
        if read:
            loaded.image_ids.extend(read)
            loaded.references.extend(chosen[image_id] for image_id in read)
            loaded.blocks.append(pixels)
    if len(loaded.image_ids) < _FEWEST:
        raise DatasetError(
            f"{spec.dataset}: only {len(loaded.image_ids)} of {len(ids)} images can be read "
            f"({loaded.unreadable[0]}); restore the images, or prepare the dataset again with "
            "embed.enabled=true",
            uri=spec.dataset,
        )
    return loaded


def load_block(
    ids: Sequence[str], spec: LoadSpec
) -> tuple[UInt8[np.ndarray, "b h w 3"], tuple[list[str], list[str]]]:
    """Read and decode some images, in a worker.

    Returns:
        The pixels; and the ids of the readable images in the same order, with the unreadable ones
        and the reasons.
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
    """Load some blocks at a time; yield all in order."""
    running: list[tuple[Any, Any]] = []
    try:
        for block in blocks:
            running.append(tuple(load.remote(block, spec)))
            if len(running) == _LOADS_AT_ONCE:
                pixels, ids_read = running.pop(0)
                yield pixels, ray.get(ids_read)
        for pixels, ids_read in running:
            yield pixels, ray.get(ids_read)
    except RayError as error:
        raise explain(error, REMEDY) from error


def _files(dataset: CaptionDataset, ids: Sequence[str]) -> Iterator[tuple[str, bytes | str]]:
    """Yield ids and files; for a file that cannot be read, the reason."""
    try:
        yield from list(dataset.images(ids))
    except (ObjectNotFound, TransientError) as error:
        if len(ids) == 1:
            yield ids[0], str(error)
            return
        # One is missing, which says nothing about the others.
        for image_id in ids:
            yield from _files(dataset, [image_id])


def _decode(file: bytes | str, spec: LoadSpec) -> UInt8[np.ndarray, "h w 3"] | str:
    if isinstance(file, str):
        return file
    try:
        return decode(file, spec.target, spec.image).pixels
    except ImageError as error:
        return str(error)
