"""The caption stage: an actor that holds a model, shrinks batches and isolates what breaks it."""

import logging
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from raycap import schema
from raycap.bulk.loading import RunSpec, failure
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.models.base import Caption, Captioner
from raycap.models.load import load_captioner
from raycap.models.runtime import is_out_of_memory, use_threads
from raycap.text import count_words

logger = logging.getLogger(__name__)

Outcome = Caption | ImageError


class CaptionActor:
    """Captions LOADED tables. One a captioner process, made by Ray Data."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._batch_size = spec.batch_size
        use_threads(spec.torch_threads)
        self._captioner: Captioner | Exception
        try:
            self._captioner = load_captioner(spec.model, spec.config.model, spec.config.generation)
        except Exception as error:  # noqa: BLE001  raised at the first call
            # From here it would reach the driver as mere text.
            self._captioner = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer every row that has pixels; pass failed rows through. Returns ANSWERED rows.

        Raises:
            ModelError: the model cannot be loaded, or fails on any image whatever.
        """
        if isinstance(self._captioner, Exception):
            raise self._captioner
        pixels, rows = _pixels(batch, self._spec)
        outcomes = caption_all(self._captioner, pixels, self._batch_size)
        self._batch_size = min(self._batch_size, outcomes.batch_size)
        return _answer(batch, rows, outcomes.results)


class Outcomes:
    """What became of a batch, and the batch size that memory sufficed for."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.results: list[Outcome] = []


def caption_all(
    captioner: Captioner, pixels: UInt8[np.ndarray, "b h w 3"], batch_size: int
) -> Outcomes:
    """Caption all images in batches; every image gets a caption or a `model_rejected` error.

    A batch that runs out of memory is halved, and later batches stay that small. A batch that
    fails otherwise is bisected down to the images that break the model.

    Raises:
        ModelError: memory does not suffice for a single image, or the model fails on a plain
            grey image too: then the model is broken, not the image.
    """
    outcomes = Outcomes(batch_size)
    start = 0
    while start < len(pixels):
        batch = pixels[start : start + outcomes.batch_size]
        try:
            outcomes.results += captioner.caption(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                outcomes.results += _bisect(captioner, batch, error)
            elif len(batch) == 1:
                raise ModelError(
                    f"memory does not suffice for one image ({_one_line(error)}); use a smaller "
                    "model, a lower model.precision or fewer generation.num_beams"
                ) from error
            else:
                outcomes.batch_size = len(batch) // 2
                logger.warning("batch_shrunk images=%d reason=out_of_memory", outcomes.batch_size)
                continue
        start += len(batch)
    return outcomes


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
        except Exception as inner:  # noqa: BLE001  as in caption_all
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
