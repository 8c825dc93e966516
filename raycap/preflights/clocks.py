"""The stages of a preflight: those of a run with time measurements, and pictures of the images.

Images are read once, by the same code as in a run, so that the measurement applies to the run.
"""

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from io import BytesIO
from typing import Any
from uuid import uuid4

import pyarrow as pa
from PIL import Image

from raycap import schema
from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import CaptionActor
from raycap.captioning.endpoint import EndpointActor
from raycap.captioning.loading import (
    DecodesImages,
    IsolatedDecoder,
    ReadsImages,
    RunSpec,
    image_decoder,
    image_reader,
    in_blocks,
    load_image,
)
from raycap.captioning.source import File, Row, with_held_files
from raycap.captioning.stream import Stages
from raycap.config import ImageConfig
from raycap.images.decoding import DecodedImage, Target, decode
from raycap.models.base import BatchRange
from raycap.results.preflight import MAX_PICTURES
from raycap.storage.parallel import ordered_map

_SIDE_PX = 288
_QUALITY = 75


def picture_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return the size of an image's picture, which is at most that of the image."""
    scale = min(1.0, _SIDE_PX / max(width_px, height_px))
    return max(1, round(scale * width_px)), max(1, round(scale * height_px))


def shrink(data: bytes, size: tuple[int, int], config: ImageConfig) -> bytes:
    """Shrink an image file that can be decoded to a WebP.

    Args:
        data: The file.
        size: Width and height of the upright image, in pixels.
        config: Limits for images.
    """
    width_px, height_px = picture_size(*size)
    pixels = decode(data, Target(width_px=width_px, height_px=height_px), config).pixels
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=_QUALITY)
    return sink.getvalue()


def sample_work(images: pa.Table, num_tasks: int) -> pa.Table:
    """Distribute MANIFEST rows over load tasks, as SAMPLE_WORK rows."""
    rows = [{**row, schema.ROW: place} for place, row in enumerate(images.to_pylist())]
    shares = [rows[start::num_tasks] for start in range(min(num_tasks, len(rows)))]
    return pa.Table.from_pylist(
        [{schema.IMAGES: share} for share in shares], schema=schema.SAMPLE_WORK
    )


def load_sample(work: pa.Table, spec: RunSpec) -> Iterator[pa.Table]:
    """Load SAMPLE_WORK rows: yield SAMPLE_LOADED tables, as `load_parts` does for parts."""
    reader = image_reader(spec.config.storage)
    decoder = image_decoder(spec)
    rows = [_with_position(row) for share in work[schema.IMAGES].to_pylist() for row in share]
    try:
        files = _timed(with_held_files(rows, spec.dataset, spec.config.storage))
        load = partial(_load_timed, reader=reader, decoder=decoder, spec=spec)
        images = ordered_map(load, files, spec.config.engine.fetch_threads)
        yield from in_blocks(images, spec.block_rows, schema.SAMPLE_LOADED)
    finally:
        decoder.close()


def _with_position(row: Row) -> Row:
    """Add the columns for a row's place in the output, which do not apply to a preflight."""
    return {**row, schema.PART: 0, schema.NUM_ROWS: 0, schema.PARTIAL: False, schema.ATTEMPTS: 1}


def _timed(
    files: Iterable[tuple[Row, File | None]],
) -> Iterator[tuple[Row, File | None, float]]:
    """Yield each file of a caption dataset with the seconds that reading it took."""
    asked = time.perf_counter()
    for row, file in files:
        yield row, file, time.perf_counter() - asked
        asked = time.perf_counter()


def _load_timed(
    item: tuple[Row, File | None, float],
    reader: ReadsImages,
    decoder: DecodesImages,
    spec: RunSpec,
) -> dict[str, Any]:
    """Load one image into a SAMPLE_LOADED row."""
    row, file, held_s = item
    stopwatch = _Stopwatch(reader, decoder)
    loaded = load_image(row, file, stopwatch, stopwatch, spec)
    picture = None
    was_read = loaded[schema.STATUS] == schema.STATUS_OK and bool(stopwatch.data)
    if was_read and row[schema.ROW] < MAX_PICTURES:
        size = loaded[schema.WIDTH_PX], loaded[schema.HEIGHT_PX]
        picture = shrink(stopwatch.data, size, spec.config.image)
    return {
        **loaded,
        schema.FETCH_S: stopwatch.fetch_s + held_s,
        schema.DECODE_S: stopwatch.decode_s,
        schema.PICTURE: picture,
    }


class _Stopwatch:
    """Reads and decodes one image, and measures both."""

    def __init__(self, reader: ReadsImages, decoder: DecodesImages) -> None:
        self._reader = reader
        self._decoder = decoder
        # Decoding is measured in CPU time, which does not depend on other threads. The time of a
        # child process does not count as this thread's.
        is_apart = isinstance(decoder, IsolatedDecoder)
        self._clock = time.perf_counter if is_apart else time.thread_time
        self.fetch_s = 0.0
        self.decode_s = 0.0
        self.data = b""

    def read(self, uri: str, max_bytes: int, size_bytes: int | None = None) -> bytes:
        """Read the file."""
        started = time.perf_counter()
        try:
            return self._reader.read(uri, max_bytes, size_bytes)
        finally:
            self.fetch_s = time.perf_counter() - started

    def is_version(self, uri: str, etag: str | None, data: bytes) -> bool | None:
        """Ask the reader."""
        return self._reader.is_version(uri, etag, data)

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode it."""
        self.data = data
        started = self._clock()
        try:
            return self._decoder(data)
        finally:
            self.decode_s = self._clock() - started


class RecordedBatchSize(BatchSize):
    """The batch size of a captioner, with the time of each round."""

    def __init__(self, allowed: BatchRange) -> None:
        super().__init__(allowed)
        self.rounds: list[tuple[int, int, float]] = []
        """Batch size, images and seconds."""

    def note(self, num_images: int, seconds: float) -> None:
        """Record how long images took."""
        self.rounds.append((self.current, num_images, seconds))
        super().note(num_images, seconds)


class MeasuringActor(CaptionActor):
    """Captions SAMPLE_LOADED tables, and measures the time."""

    batch_size_kind = RecordedBatchSize

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._name = uuid4().hex

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Caption every row, as a run does. Returns SAMPLE_ANSWERED rows."""
        size = self._batch_size
        started = time.perf_counter()
        answered = super().__call__(batch.select(schema.LOADED.names))
        seconds = time.perf_counter() - started
        assert isinstance(size, RecordedBatchSize)
        rounds, size.rounds = size.rounds, []
        num_loaded = len(batch) - batch[schema.PIXELS].null_count
        if num_loaded and not rounds:  # too few for one whole round
            rounds = [(size.current, num_loaded, seconds)]
        return _with_measures(answered, batch, [(self._name, *one) for one in rounds])


class MeasuringEndpointActor(EndpointActor):
    """Answers SAMPLE_LOADED tables by endpoints, and measures the time.

    It answers several blocks at a time: the time of a block is that since the last one ended.
    """

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._name = uuid4().hex
        self._ended_s = 0.0

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer every row, as a run does. Yields SAMPLE_ANSWERED rows."""
        started_s = time.perf_counter()
        async for answered in super().__call__(batch.select(schema.LOADED.names)):
            now_s = time.perf_counter()
            seconds = now_s - max(started_s, self._ended_s)
            self._ended_s = now_s
            num_loaded = len(batch) - batch[schema.PIXELS].null_count
            size = self._spec.batches.most
            rounds = [(self._name, size, num_loaded, seconds)] if num_loaded else []
            yield _with_measures(answered, batch, rounds)


def _per_image(answered: pa.Table) -> pa.Table:
    """Return one row per image: its first answer, with the tokens of all its answers."""
    first = answered.filter(answered[schema.IS_FIRST])
    if len(first) == len(answered):
        return answered
    tokens = (schema.NUM_TOKENS, schema.NUM_PROMPT_TOKENS)
    grouped = answered.group_by(schema.ROW, use_threads=False)  # keeps the order
    sums = grouped.aggregate([(name, "sum") for name in tokens])
    for name in tokens:
        place = first.schema.get_field_index(name)
        field = first.schema.field(name)
        first = first.set_column(place, field, sums[f"{name}_sum"].cast(field.type))
    return first


def _with_measures(
    answered: pa.Table, batch: pa.Table, rounds: list[tuple[str, int, int, float]]
) -> pa.Table:
    answered = _per_image(answered)
    names = (schema.CAPTIONER, schema.BATCH_SIZE, schema.NUM_IMAGES, schema.SECONDS)
    records = [dict(zip(names, one, strict=True)) for one in rounds]
    measures = [batch[name] for name in (schema.FETCH_S, schema.DECODE_S, schema.PICTURE)]
    column = pa.array(
        [records if place == 0 else [] for place in range(len(answered))],
        schema.SAMPLE_ANSWERED.field(schema.ROUNDS).type,
    )
    return pa.table([*answered.columns, *measures, column], schema=schema.SAMPLE_ANSWERED)


SAMPLE_STAGES = Stages(load=load_sample, captioner=MeasuringActor, endpoint=MeasuringEndpointActor)
