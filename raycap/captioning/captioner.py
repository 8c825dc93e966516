"""The caption stage: an actor that holds a model, shrinks batches and isolates what breaks it."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from raycap import schema
from raycap.captioning import telemetry
from raycap.captioning.attempts import is_replacement
from raycap.captioning.batching import BatchRange, BatchSize
from raycap.captioning.isolated import IsolatedCaptioner, WatchedCaptioner, hang_limit_s
from raycap.captioning.loading import RunSpec, failure
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.images.isolation import HangWatch, ProcessDied
from raycap.models.base import Caption
from raycap.models.device import is_out_of_memory, use_threads
from raycap.models.load import load_captioner
from raycap.text import count_words

Outcome = Caption | ImageError


_ISOLATED_BLOCKS = 4  # more than the few that Ray hands an actor ahead


@runtime_checkable  # the test run checks annotations with isinstance
class CaptionsBatches(Protocol):
    """What is needed of a captioner here."""

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch, one result an image, in order."""


class CaptionActor:
    """Captions LOADED tables. One a captioner process, made by Ray Data.

    The replacement of one that died begins with the model in a process of its own: should an image
    have killed it, it is among the first ones, and is found by bisection. Then it goes on as usual.
    """

    batch_size_kind: type[BatchSize] = BatchSize

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        use_threads(spec.torch_threads)
        self._watch = HangWatch(hang_limit_s(spec.config.engine, spec.config.model))
        self._isolated: IsolatedCaptioner | None = None
        self._num_isolated = 0
        if is_replacement():
            self._isolated = IsolatedCaptioner(spec)
            self._captioner: CaptionsBatches | Exception = self._isolated
            self._batch_size = self.batch_size_kind(BatchRange.fixed(spec.batches.least))
        else:
            self._load(spec.batches)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer every row that has pixels; pass failed rows through. Returns ANSWERED rows.

        Raises:
            ModelError: the model cannot be loaded, or fails on any image whatever.
        """
        if isinstance(self._captioner, Exception):
            raise self._captioner
        pixels, rows = _pixels(batch, self._spec)
        num_lanes = 1 if self._isolated else self._spec.num_lanes
        telemetry.note_in_flight(len(pixels))
        outcomes = caption_all(self._captioner, pixels, self._batch_size, num_lanes)
        telemetry.note_in_flight(0)
        answered = _answer(batch, rows, outcomes, self._spec.model.name)
        if self._isolated is not None:
            self._num_isolated += 1
            if self._num_isolated == _ISOLATED_BLOCKS:
                self._end_isolation(self._isolated)
        return answered

    def _load(self, batches: BatchRange) -> None:
        spec = self._spec
        try:
            captioner = load_captioner(spec.model, spec.config.model, spec.config.generation)
            self._captioner = WatchedCaptioner(captioner, self._watch)
        except Exception as error:  # noqa: BLE001  raised at the first call
            # From here it would reach the driver as mere text.
            self._captioner = error
        # Now, so that what the model itself takes does not count as taken by a batch.
        self._batch_size = self.batch_size_kind(batches)

    def _end_isolation(self, isolated: IsolatedCaptioner) -> None:
        """Go on with the model in this process.

        Where nothing died meanwhile, memory may have run out: batches grow half as far then.
        """
        isolated.close()
        self._isolated = None
        batches, size = self._spec.batches, self._batch_size.current
        if size < batches.least:
            batches = BatchRange.fixed(size)
        elif not isolated.num_deaths:
            batches = BatchRange(least=batches.least, most=max(batches.least, batches.most // 2))
        self._load(batches)


def caption_all(
    captioner: CaptionsBatches,
    pixels: UInt8[np.ndarray, "b h w 3"],
    batch_size: BatchSize,
    num_lanes: int = 1,
) -> list[Outcome]:
    """Caption all images in batches; every image gets a caption or a `model_rejected` error.

    A batch that runs out of memory is halved, and later batches stay that small. A batch that
    fails otherwise, or has a score that is no number, is bisected down to the images that break
    the model. Where a process dies of a batch, and survives its halves, memory had run out.

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
    captioner: CaptionsBatches, pixels: UInt8[np.ndarray, "b h w 3"]
) -> tuple[list[Outcome], list[int]]:
    """Caption a batch; return the results, and the smaller sizes that memory made it take."""
    results: list[Outcome] = []
    sizes: list[int] = []
    size = len(pixels)
    while len(results) < len(pixels):
        batch = pixels[len(results) : len(results) + size]
        try:
            results += _captions(captioner, batch)
        except ModelError:
            raise  # it could not be loaded: no image is to blame
        except Exception as error:
            if not is_out_of_memory(error):
                outcomes = _bisect(captioner, batch, error)
                results += outcomes
                if isinstance(error, ProcessDied) and _are_captions(outcomes):
                    size = max(1, len(batch) // 2)
                    sizes.append(size)
            elif len(batch) == 1:
                raise ModelError(
                    f"memory does not suffice for one image ({one_line(error)}); use a smaller "
                    "model, a lower model.precision or fewer generation.num_beams"
                ) from error
            else:
                size = len(batch) // 2
                sizes.append(size)
    return results, sizes


def _captions(captioner: CaptionsBatches, batch: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
    started = time.perf_counter()
    captions = captioner.caption(batch)
    telemetry.note_batch(time.perf_counter() - started)
    if not all(math.isfinite(caption.logprob) for caption in captions):
        raise FloatingPointError("the score of a caption is not a finite number")
    return captions


def _are_captions(outcomes: list[Outcome]) -> bool:
    return all(isinstance(outcome, Caption) for outcome in outcomes)


def _bisect(
    captioner: CaptionsBatches, batch: UInt8[np.ndarray, "b h w 3"], error: Exception
) -> list[Outcome]:
    """Find which images of a failed batch break the model."""
    if len(batch) == 1:
        _check_alive(captioner, batch, error)
        return [ImageError(ErrorCode.MODEL_REJECTED, one_line(error))]
    outcomes: list[Outcome] = []
    for half in np.array_split(batch, 2):
        try:
            outcomes += _captions(captioner, half)
        except ModelError:
            raise
        except Exception as inner:  # noqa: BLE001  as in _caption_batch
            outcomes += _bisect(captioner, half, inner)
    return outcomes


def _check_alive(
    captioner: CaptionsBatches, image: UInt8[np.ndarray, "1 h w 3"], error: Exception
) -> None:
    """Raise if the model fails on a grey image as well: a bug must not pass as bad images."""
    try:
        _captions(captioner, np.full_like(image, 128))
    except Exception as inner:  # noqa: BLE001  whatever a model raises
        raise ModelError(f"the model fails on every image: {one_line(inner)}") from error


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


def _answer(batch: pa.Table, rows: list[int], outcomes: list[Outcome], model: str) -> pa.Table:
    answered: list[dict[str, Any]] = batch.drop_columns([schema.PIXELS]).to_pylist()
    for index, outcome in zip(rows, outcomes, strict=True):
        answered[index] |= (
            failure(outcome)
            if isinstance(outcome, ImageError)
            else {**caption_columns(outcome), schema.MODEL: model}
        )
    return pa.Table.from_pylist(answered, schema=schema.ANSWERED)


def caption_columns(caption: Caption) -> dict[str, Any]:
    """Fill the columns of a captioned row."""
    return {
        schema.CAPTION: caption.text,
        schema.NUM_WORDS: count_words(caption.text),
        schema.LOGPROB: caption.logprob,
        schema.ALTERNATIVES: [
            {schema.CAPTION: other.text, schema.LOGPROB: other.logprob}
            for other in caption.alternatives
        ],
    }


def one_line(error: Exception) -> str:
    """Say what a model raised, in a line for a row."""
    if isinstance(error, ProcessDied):
        return f"the model did not survive it: {error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
