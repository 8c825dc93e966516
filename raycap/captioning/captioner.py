"""The caption stage: an actor that holds a model, shrinks batches and isolates bad images.

Some images crash or hang the process of a model. A worker that replaces a dead one therefore runs
its model in a child process at first, and bisects batches down to the image that kills it.
"""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import UInt8

from raycap import schema
from raycap.captioning import telemetry
from raycap.captioning.batching import BatchSize
from raycap.captioning.loading import RunSpec, failure
from raycap.config import EngineConfig, ModelConfig
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.images.isolation import HangWatch, Isolated, ProcessDied
from raycap.models.base import BatchRange, Caption, Captioner
from raycap.models.load import load_captioner
from raycap.models.process import is_out_of_memory, use_threads
from raycap.text import count_words

logger = logging.getLogger(__name__)

Outcome = Caption | ImageError
CaptionBatch = Callable[[UInt8[np.ndarray, "b h w 3"]], list[Caption]]

_ISOLATED_BLOCKS = 4  # more than the few blocks that Ray assigns to an actor ahead of time
_LEAST_LIMIT_S = 10.0
_SLOWNESS = 20.0  # an image may take this many times as long as a plain grey one
_COMPILING = 5.0  # a batch of a new size is compiled first, which takes minutes


class CaptionsBatches(Protocol):
    """The method that the functions here need of a captioner."""

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch: one result per image, in order."""


def is_replacement() -> bool:
    """Whether Ray restarted this actor because its process died. False outside of Ray."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and context.was_current_actor_reconstructed


def hang_limit_s(engine: EngineConfig, model: ModelConfig) -> float:
    """Return the seconds after which a batch counts as hanging."""
    return (_COMPILING if model.compile else 1.0) * engine.hang_timeout_s


class WatchedCaptioner:
    """A captioner that ends this process if it hangs."""

    def __init__(self, captioner: Captioner, watch: HangWatch) -> None:
        self._captioner = captioner
        self._watch = watch

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch."""
        with self._watch():
            return self._captioner.caption(pixels)


class IsolatedCaptioner:
    """A captioner in a child process, which is replaced when it dies or hangs.

    A plain grey image is captioned first. The time that it takes sets the limit for batches, so
    that hangs of a fast model are noticed within seconds.
    """

    def __init__(self, spec: RunSpec) -> None:
        """Prepare; the model is loaded with the first batch."""
        target = spec.model.target
        self._grey = np.full((1, target.height_px, target.width_px, 3), 128, np.uint8)
        self._limit_s = hang_limit_s(spec.config.engine, spec.config.model)
        self._is_compiled = spec.config.model.compile
        self._process: Isolated[UInt8[np.ndarray, "b h w 3"], list[Caption]] = Isolated(
            partial(_load_here, spec.without_actors())
        )
        self._image_s = 0.0
        self.num_deaths = 0

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch.

        Raises:
            ProcessDied: the model's process died or exceeded the time limit.
            ModelError: the process dies of a plain grey image, too.
        """
        if not self._process.is_running:
            self._warm_up()
        try:
            return self._process(pixels, self._limit_for(len(pixels)))
        except ProcessDied as error:
            self.num_deaths += 1
            logger.warning("model_process_died images=%d reason=%s", len(pixels), error)
            raise

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    def _limit_for(self, num_images: int) -> float:
        if self._is_compiled:
            return self._limit_s  # the grey image does not tell how long compiling takes
        likely_s = _SLOWNESS * self._image_s * num_images
        return min(self._limit_s, max(_LEAST_LIMIT_S, likely_s))

    def _warm_up(self) -> None:
        try:
            self._process(self._grey)  # loads the model, which may take long
            started = time.perf_counter()
            self._process(self._grey, self._limit_s)
            self._image_s = time.perf_counter() - started
        except ProcessDied as error:
            raise ModelError(
                f"the model fails on a plain grey image: {error}; check the memory, use "
                "a smaller model or fewer engine.num_actors, or --debug to see its output"
            ) from error


def _load_here(spec: RunSpec) -> CaptionBatch:
    """Load the captioner in the process that calls this."""
    use_threads(spec.torch_threads)
    return load_captioner(spec.model, spec.config.model, spec.config.generation).caption


class CaptionActor:
    """Captions LOADED tables. Ray Data creates one per captioner process.

    An actor that replaces a dead one starts with its model in a child process: if an image killed
    it, that image is among the first ones and is found by bisection. After a few blocks the model
    moves into the actor's own process.
    """

    batch_size_kind: type[BatchSize] = BatchSize

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        telemetry.begin_run(spec.output)
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
        """Caption every row that has pixels and pass failed rows through. Returns ANSWERED rows.

        Raises:
            ModelError: the model cannot be loaded, or fails on every image.
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
            # Raised in a constructor, it would reach the driver as text only.
            self._captioner = error
        # After loading, so that the model's own memory does not count as memory of a batch.
        self._batch_size = self.batch_size_kind(batches)

    def _end_isolation(self, isolated: IsolatedCaptioner) -> None:
        """Continue with the model in this process.

        If nothing died in the meantime, the memory may have run out before: then the largest batch
        is halved.
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
    fails otherwise, or has a score that is not finite, is bisected down to the images that break
    the model. If a process dies of a batch but survives its halves, the memory had run out.

    Args:
        captioner: The model.
        pixels: The images.
        batch_size: Images per batch; adjusted to the measured speed.
        num_lanes: Batches computed at the same time. With two, one batch is copied to the
            accelerator and launched while the other is computed.

    Raises:
        ModelError: the memory does not suffice for one image, or the model also fails on a plain
            grey image: then the model is broken, not the image.
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
    """Caption a batch; return the results, and any smaller sizes that memory forced."""
    results: list[Outcome] = []
    sizes: list[int] = []
    size = len(pixels)
    while len(results) < len(pixels):
        batch = pixels[len(results) : len(results) + size]
        try:
            results += _captions(captioner, batch)
        except ModelError:
            raise  # the model could not be loaded: no image is at fault
        except Exception as error:
            if not is_out_of_memory(error):
                outcomes = _bisect(captioner, batch, error)
                results += outcomes
                if isinstance(error, ProcessDied) and _are_captions(outcomes):
                    size = max(1, len(batch) // 2)
                    sizes.append(size)
            elif len(batch) == 1:
                raise ModelError(
                    f"the memory does not suffice for one image ({one_line(error)}); use a smaller "
                    "model, a lower model.precision or fewer generation.num_beams",
                    setting="model.precision",
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
    """Find the images of a failed batch that break the model."""
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
    """Raise if the model also fails on a grey image: a bug must not look like bad images."""
    try:
        _captions(captioner, np.full_like(image, 128))
    except Exception as inner:  # noqa: BLE001  whatever a model raises
        raise ModelError(f"the model fails on every image: {one_line(inner)}") from error


def _pixels(batch: pa.Table, spec: RunSpec) -> tuple[UInt8[np.ndarray, "b h w 3"], list[int]]:
    """Return the pixels of the loaded images, and their row indices."""
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
    """Return the columns of a captioned row."""
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
    """Describe an error of a model in one line, for a row."""
    if isinstance(error, ProcessDied):
        return f"the model failed on this image: {error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
