"""The caption stage: an actor that holds a model, shrinks batches and isolates what breaks it."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from raycap import schema
from raycap.bulk.batching import BatchSize
from raycap.bulk.loading import RunSpec, failure
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.models.base import Caption, Captioner
from raycap.models.load import load_captioner
from raycap.models.runtime import is_out_of_memory, use_threads
from raycap.text import count_words

Outcome = Caption | ImageError


class CaptionActor:
    """Captions LOADED tables. One a captioner process, made by Ray Data."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        use_threads(spec.torch_threads)
        self._captioner: Captioner | Exception
        try:
            self._captioner = load_captioner(spec.model, spec.config.model, spec.config.generation)
        except Exception as error:  # noqa: BLE001  raised at the first call
            # From here it would reach the driver as mere text.
            self._captioner = error
        # Now, so that what the model itself takes does not count as taken by a batch.
        self._batch_size = BatchSize(spec.batches)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer every row that has pixels; pass failed rows through. Returns ANSWERED rows.

        Raises:
            ModelError: the model cannot be loaded, or fails on any image whatever.
        """
        if isinstance(self._captioner, Exception):
            raise self._captioner
        pixels, rows = _pixels(batch, self._spec)
        outcomes = caption_all(self._captioner, pixels, self._batch_size, self._spec.num_lanes)
        return _answer(batch, rows, outcomes)


def caption_all(
    captioner: Captioner,
    pixels: UInt8[np.ndarray, "b h w 3"],
    batch_size: BatchSize,
    num_lanes: int = 1,
) -> list[Outcome]:
    """Caption all images in batches; every image gets a caption or a `model_rejected` error.

    A batch that runs out of memory is halved, and later batches stay that small. A batch that
    fails otherwise is bisected down to the images that break the model.

    Args:
        captioner: The model.
        pixels: The images.
        batch_size: How many at a time; it learns from how long they take.
        num_lanes: Batches in flight: with two, a batch travels to the accelerator and is launched
            there while the other one is computed.

    Raises:
        ModelError: memory does not suffice for a single image, or the model fails on a plain
            grey image too: then the model is broken, not the image.
    """
    results: list[Outcome] = []
    with ThreadPoolExecutor(num_lanes) if num_lanes > 1 else nullcontext() as lanes:
        while len(results) < len(pixels):
            size = batch_size.current
            found = pixels[len(results) : len(results) + size * num_lanes]
            batches = [found[start : start + size] for start in range(0, len(found), size)]
            started = time.perf_counter()
            captioned = (lanes.map if lanes else map)(partial(_caption_batch, captioner), batches)
            shrunk: list[int] = []
            for outcomes, fitted in captioned:
                results += outcomes
                shrunk += fitted
            if shrunk:
                batch_size.shrink(min(shrunk))
            elif len(found) == size * num_lanes:
                batch_size.note(len(found), time.perf_counter() - started)
    return results


def _caption_batch(
    captioner: Captioner, pixels: UInt8[np.ndarray, "b h w 3"]
) -> tuple[list[Outcome], list[int]]:
    """Caption a batch; return the results, and the smaller sizes that memory made it take."""
    results: list[Outcome] = []
    sizes: list[int] = []
    size = len(pixels)
    while len(results) < len(pixels):
        batch = pixels[len(results) : len(results) + size]
        try:
            results += captioner.caption(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                results += _bisect(captioner, batch, error)
            elif len(batch) == 1:
                raise ModelError(
                    f"memory does not suffice for one image ({_one_line(error)}); use a smaller "
                    "model, a lower model.precision or fewer generation.num_beams"
                ) from error
            else:
                size = len(batch) // 2
                sizes.append(size)
    return results, sizes


def _bisect(
    captioner: Captioner, batch: UInt8[np.ndarray, "b h w 3"], error: Exception
) -> list[Outcome]:
    """Find which images of a failed batch break the model."""
    if len(batch) == 1:
        _check_alive(captioner, batch, error)
        return [ImageError(ErrorCode.MODEL_REJECTED, _one_line(error))]
    outcomes: list[Outcome] = []
    for half in np.array_split(batch, 2):
        try:
            outcomes += captioner.caption(half)
        except Exception as inner:  # noqa: BLE001  as in _caption_batch
            outcomes += _bisect(captioner, half, inner)
    return outcomes


def _check_alive(
    captioner: Captioner, image: UInt8[np.ndarray, "1 h w 3"], error: Exception
) -> None:
    """Raise if the model fails on a grey image as well: a bug must not pass as bad images."""
    try:
        captioner.caption(np.full_like(image, 128))
    except Exception as inner:  # noqa: BLE001  whatever a model raises
        raise ModelError(f"the model fails on every image: {_one_line(inner)}") from error


def _pixels(batch: pa.Table, spec: RunSpec) -> tuple[UInt8[np.ndarray, "b h w 3"], list[int]]:
    """Gather the pixels of the loaded images, and the rows where they stand."""
    column = batch[schema.PIXELS]
    rows = [index for index, is_loaded in enumerate(column.is_valid().to_pylist()) if is_loaded]
    target = spec.model.target
    joined = column.drop_null().combine_chunks()
    joined = joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined
    shape = (len(rows), target.height_px, target.width_px, 3)
    if not rows:
        return np.empty(shape, np.uint8), rows
    offset = np.frombuffer(joined.buffers()[1], np.int64)[joined.offset]
    values = np.frombuffer(joined.buffers()[2], np.uint8)
    return values[offset : offset + len(rows) * target.num_bytes].reshape(shape), rows


def _answer(batch: pa.Table, rows: list[int], outcomes: list[Outcome]) -> pa.Table:
    answered: list[dict[str, Any]] = batch.drop_columns([schema.PIXELS]).to_pylist()
    for index, outcome in zip(rows, outcomes, strict=True):
        answered[index] |= (
            failure(outcome) if isinstance(outcome, ImageError) else _caption_columns(outcome)
        )
    return pa.Table.from_pylist(answered, schema=schema.ANSWERED)


def _caption_columns(caption: Caption) -> dict[str, Any]:
    return {
        schema.CAPTION: caption.text,
        schema.NUM_WORDS: count_words(caption.text),
        schema.LOGPROB: caption.logprob,
        schema.ALTERNATIVES: [
            {schema.CAPTION: other.text, schema.LOGPROB: other.logprob}
            for other in caption.alternatives
        ],
    }


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
