"""Building parts: images are fetched, checked, shrunk and written by split, in Ray Data tasks.

Tasks write the parts themselves; only counts return to the driver. Building an unfinished part
again continues it: existing rows are kept, rejected images stay rejected, and only the others are
fetched. So interruptions do not change the result.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import pyarrow as pa
import ray
from PIL import Image

from raycap import schema
from raycap.cluster.failures import explain
from raycap.cluster.streaming import blocks_of, stream_context
from raycap.config import PrepareConfig, StorageConfig
from raycap.datasets.parts import (
    ANSWERED,
    ANSWERED_PARTS,
    MOVED,
    MOVES,
    NUM_IMAGES,
    PARTIAL_PARTS,
    PLANNED,
    PLANNED_PARTS,
    STORED_IN,
    WORDS,
    SplitWriter,
    encode_table,
    read_part,
    read_table,
)
from raycap.datasets.readers.embedded import SUFFIX, EmbeddedImages
from raycap.datasets.readers.tables import IMAGE_COLUMNS
from raycap.errors import (
    TRANSIENT_CODES,
    UNREADABLE,
    ConfigError,
    ErrorCode,
    ImageError,
    ObjectNotFound,
    StorageError,
)
from raycap.images.decoding import Target, decode, prepare_process
from raycap.metrics.tokenizer import tokenize
from raycap.runs.records import LOCK
from raycap.schema import PART
from raycap.storage.address import redact, redact_text
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import part_key
from raycap.storage.stores import ImageReader, digest_of, open_store

_PROBE = Target(width_px=32, height_px=32, resample="box")
_MAX_JPEG_PX = 65_500
_TURNS = (b"Exif\0\0", b"tiff:Orientation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """An image file as a dataset stores it."""

    data: bytes
    """The file to embed."""
    width_px: int
    """Of that file, upright."""
    height_px: int
    """Of that file, upright."""


def store_image(data: bytes, config: PrepareConfig) -> StoredImage:
    """Check that an image file decodes completely, and shrink it to `embed.max_side_px`.

    A JPEG that is small enough and not rotated by EXIF is kept byte for byte; everything else
    becomes an upright JPEG, transparent images on white. Nothing is enlarged.

    Raises:
        ImageError: it cannot be decoded, is empty or too large.
    """
    probe = decode(data, _PROBE, config.image)
    width_px, height_px = probe.width_px, probe.height_px
    side_px = config.embed.max_side_px
    if side_px is not None and config.embed.enabled:
        size = shrunk_size(width_px, height_px, side_px)
        if size != (width_px, height_px) or not _is_plain_jpeg(data):
            return _as_jpeg(data, size, config)
    return StoredImage(data=data, width_px=width_px, height_px=height_px)


def shrunk_size(width_px: int, height_px: int, side_px: int) -> tuple[int, int]:
    """Scale a size so that its shorter side is at most `side_px`, and its longer fits in a JPEG."""
    scale = min(1.0, side_px / min(width_px, height_px), _MAX_JPEG_PX / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def _is_plain_jpeg(data: bytes) -> bool:
    """Return whether it is a JPEG without metadata that could rotate it."""
    return data.startswith(b"\xff\xd8\xff") and not any(mark in data for mark in _TURNS)


def _as_jpeg(data: bytes, size: tuple[int, int], config: PrepareConfig) -> StoredImage:
    width_px, height_px = size
    pixels = decode(data, Target(width_px=width_px, height_px=height_px), config.image).pixels
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=config.embed.quality)
    return StoredImage(data=sink.getvalue(), width_px=width_px, height_px=height_px)


Row = dict[str, Any]

GIVE_UP_AFTER = 32
"""Consecutive images of a part that fail for a transient reason before the rest of the part is left
to a later run: each may have taken minutes."""

_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A planned image, and its result in an earlier run."""

    planned: Row
    """PLANNED."""
    split: str
    """The split for its row."""
    before: Row | None
    """ANSWERED, of an earlier run."""
    existing: Row | None
    """DATASET, if its row exists already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of an image."""

    answered: Row
    """ANSWERED; `words` still empty."""
    row: Row | None
    """DATASET; None if the image is rejected, or failed for a transient reason."""
    tokens: list[list[str]]
    """Of each stored caption."""

    @property
    def is_unreached(self) -> bool:
        """Whether a later run may succeed."""
        return self.answered[schema.ERROR_CODE] in TRANSIENT_CODES


class Outage:
    """Counts images that cannot be read, for a transient reason or for lack of access.

    Shared by threads.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._num_refused = 0
        self._num_read = 0

    def note(self, *, is_unreached: bool) -> None:
        """Count another failure, or reset the count."""
        self._in_a_row = self._in_a_row + 1 if is_unreached else 0
        self._num_read += not is_unreached

    def note_refused(self, error: ImageError) -> None:
        """Count an image to which access was denied.

        Raises:
            StorageError: it is denied to all of them.
        """
        self._num_refused += 1
        if not self._num_read and self._num_refused >= GIVE_UP_AFTER:
            raise StorageError(
                f"none of {self._num_refused} images can be read: {error.message}; check the "
                "permissions and credentials, and run the same command to continue"
            )

    @property
    def is_lasting(self) -> bool:
        """Whether to stop trying in this run."""
        return self._in_a_row >= GIVE_UP_AFTER


def answer(question: Question, readers: "Readers", config: PrepareConfig, outage: Outage) -> Answer:
    """Reuse the earlier result of an image, or fetch and check it.

    Raises:
        StorageError: no image of a store can be read.
    """
    before, existing = question.before, question.existing
    if before and before[STORED_IN] and existing:
        return _kept(question, {**existing, schema.SPLIT: question.split}, before)
    if before and before[schema.ERROR_CODE] not in (None, *TRANSIENT_CODES, ErrorCode.FORBIDDEN):
        return Answer(answered=before, row=None, tokens=[])
    try:
        if outage.is_lasting:
            raise ImageError(ErrorCode.NETWORK, f"not tried: the {GIVE_UP_AFTER} before it failed")
        data = _fetch(question.planned, readers, config)
        outage.note(is_unreached=False)
        image = store_image(data, config)
    except ImageError as error:
        if error.code in TRANSIENT_CODES:
            outage.note(is_unreached=True)
        elif error.code is ErrorCode.FORBIDDEN:
            outage.note_refused(error)
        return _rejected(question, error)
    return _kept(question, _row(question, data, image, config), {schema.NUM_BYTES: len(data)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """What reads images; it keeps connections open."""

    files: ImageReader
    embedded: EmbeddedImages


def _fetch(planned: Row, readers: Readers, config: PrepareConfig) -> bytes:
    limit = config.image.max_bytes
    uri, offset_bytes = planned[schema.URI], planned[schema.OFFSET_BYTES]
    size_bytes = planned[schema.SIZE_BYTES]
    if size_bytes is not None and size_bytes > limit:
        raise ImageError(ErrorCode.TOO_LARGE, f"{size_bytes:,} bytes, more than {limit:,}")
    try:
        if offset_bytes is None:
            return readers.files.read(uri, limit)
        if uri.lower().endswith(SUFFIX):
            return readers.embedded.read(uri, offset_bytes)
        num_bytes = limit if size_bytes is None else size_bytes
        return readers.files.read_range(uri, offset_bytes, num_bytes)
    except UNREADABLE as error:
        raise ImageError.of(error) from error
    except ConfigError as error:  # a package is missing for this kind of address
        raise ImageError(ErrorCode.NOT_FOUND, f"{redact(uri)}: {error}") from error


def _row(question: Question, data: bytes, image: StoredImage, config: PrepareConfig) -> Row:
    planned = question.planned
    is_embedded = config.embed.enabled
    return {
        schema.IMAGE_ID: planned[schema.IMAGE_ID],
        schema.SOURCE_ID: planned[schema.SOURCE_ID],
        # If images are referenced, the address must be complete, including a signature.
        schema.URI: redact(planned[schema.URI]) if is_embedded else planned[schema.URI],
        schema.BYTES: image.data if is_embedded else None,
        schema.CAPTIONS_LIST: planned[schema.CAPTIONS_LIST],
        schema.SPLIT: question.split,
        schema.WIDTH_PX: image.width_px,
        schema.HEIGHT_PX: image.height_px,
        schema.DIGEST: digest_of(data),
    }


def _kept(question: Question, row: Row, known: Row) -> Answer:
    tokens = [tokenize(caption) for caption in row[schema.CAPTIONS_LIST]]
    answered = _blank(question) | {
        STORED_IN: row[schema.SPLIT],
        schema.DIGEST: row[schema.DIGEST],
        schema.WIDTH_PX: row[schema.WIDTH_PX],
        schema.HEIGHT_PX: row[schema.HEIGHT_PX],
        schema.NUM_BYTES: known[schema.NUM_BYTES],
        schema.NUM_TOKENS: [len(words) for words in tokens],
    }
    return Answer(answered=answered, row=row, tokens=tokens)


def _rejected(question: Question, error: ImageError) -> Answer:
    answered = _blank(question) | {
        schema.ERROR_CODE: str(error.code),
        schema.ERROR_MESSAGE: redact_text(error.message)[:_MESSAGE_CHARS],
        schema.URI: redact(question.planned[schema.URI]),
        schema.CAPTIONS_LIST: question.planned[schema.CAPTIONS_LIST],
    }
    return Answer(answered=answered, row=None, tokens=[])


def _blank(question: Question) -> Row:
    lists = (schema.NUM_TOKENS, WORDS, schema.CAPTIONS_LIST)
    shared = [name for name in PLANNED.names if name in ANSWERED.names and name != schema.URI]
    return {
        **{name: [] if name in lists else None for name in ANSWERED.names},
        **{name: question.planned[name] for name in shared if name not in lists},
    }


NUM_REJECTED = "num_rejected"
NUM_UNREACHED = "num_unreached"
STEP = pa.schema(
    [
        pa.field(schema.PART, pa.int64(), nullable=False),
        pa.field(NUM_IMAGES, pa.int64(), nullable=False),
        pa.field(NUM_REJECTED, pa.int64(), nullable=False),
        pa.field(NUM_UNREACHED, pa.int64(), nullable=False),
        pa.field(schema.ERROR_MESSAGE, pa.string()),
    ]
)
"""Progress of a task since its last step: images, how many of them were rejected, how many failed
for a transient reason, and the error of one of the latter."""

_STEP_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """Settings of every worker."""

    output: str
    config: PrepareConfig
    is_moving: bool = False
    """Parts are built again to move duplicates into one split."""
    debug: bool = False
    """Show the output of Ray."""
    lock_token: str = ""
    """Of the driver's lock, which the output must hold for as long as workers write; "" for none,
    as in tests of workers alone."""


def build_parts(work: pa.Table, spec: BuildSpec) -> Iterator[pa.Table]:
    """Build the parts with the numbers in column `part`; yield STEP tables.

    Raises:
        RunConflict: the driver no longer holds the output.
    """
    prepare_process(spec.config.image)
    store = _store(spec.output, spec.config.storage, spec.lock_token)
    for number in work[schema.PART].to_pylist():
        yield from _build_part(store, number, spec)


def _build_part(store: Store, number: int, spec: BuildSpec) -> Iterator[pa.Table]:
    readers, config, outage = _readers(spec.config.storage), spec.config, Outage()
    before = _rows_before(store, number)
    questions = _questions(store, number, before, is_moving=spec.is_moving)
    steps = _Steps(number)
    answered: list[Row] = []
    words: set[str] = set()
    with SplitWriter(store, number) as writer:
        for found in ordered_map(
            lambda question: answer(question, readers, config, outage),
            questions,
            config.engine.fetch_threads,
        ):
            if found.row is not None:
                writer.write(found.row)
            answered.append(found.answered | {WORDS: _new_words(found, words)})
            if steps.count(found):
                yield steps.take()
        writer.commit(before={row[STORED_IN] for row in before.values()} - {None})
    _write_answers(store, number, answered, is_whole=not steps.num_unreached)
    yield steps.take()


def _rows_before(store: Store, number: int) -> dict[str, Row]:
    """Read the results of a part's images in an earlier run, by id."""
    for folder in (ANSWERED_PARTS, PARTIAL_PARTS):
        try:
            table = read_table(store, part_key(folder, number), ANSWERED)
        except ObjectNotFound:
            continue
        return {row[schema.IMAGE_ID]: row for row in table.to_pylist()}
    return {}


def _questions(
    store: Store, number: int, before: dict[str, Row], *, is_moving: bool
) -> Iterator[Question]:
    """Yield a part's images in order of id, each with its earlier result."""
    moves: dict[str, str] = {}
    if is_moving:
        table = read_table(store, part_key(MOVES, number), MOVED)
        moves = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    existing = _ExistingRows(store, number, before)
    for planned in read_table(store, part_key(PLANNED_PARTS, number), PLANNED).to_pylist():
        image_id = planned[schema.IMAGE_ID]
        known = before.get(image_id)
        stored_in = known[STORED_IN] if known else None
        yield Question(
            planned=planned,
            split=moves.get(image_id) or stored_in or planned[schema.SPLIT],
            before=known,
            existing=existing.take(image_id),
        )


class _ExistingRows:
    """The existing rows of a part, read in parallel with the plan.

    A run that was killed between two files may have left a row in both, or in none.
    """

    def __init__(self, store: Store, number: int, before: dict[str, Row]) -> None:
        splits = sorted({row[STORED_IN] for row in before.values()} - {None})
        files = (_rows_of(store, part_key(f"{split}/", number)) for split in splits)
        self._rows = heapq.merge(*files, key=_id_of)
        self._next: Row | None = next(self._rows, None)

    def take(self, image_id: str) -> Row | None:
        """Return the row of an image, if it exists; ids must be requested in ascending order."""
        found: Row | None = None
        while self._next is not None and _id_of(self._next) <= image_id:
            found = self._next if _id_of(self._next) == image_id else None
            self._next = next(self._rows, None)
        return found


def _id_of(row: Row) -> str:
    image_id: str = row[schema.IMAGE_ID]
    return image_id


def _rows_of(store: Store, key: str) -> Iterator[Row]:
    try:
        num_bytes = store.size(key)
    except ObjectNotFound:
        return
    for table in read_part(store, key, num_bytes, schema.DATASET.names):
        yield from table.to_pylist()


def _new_words(found: Answer, words: set[str]) -> list[str]:
    """Return the tokens that are new in the part, and add them to `words`."""
    fresh = {token for tokens in found.tokens for token in tokens} - words
    words |= fresh
    return sorted(fresh)


def _write_answers(store: Store, number: int, rows: list[Row], *, is_whole: bool) -> None:
    folder = ANSWERED_PARTS if is_whole else PARTIAL_PARTS
    data = encode_table(pa.Table.from_pylist(rows, schema=ANSWERED), ANSWERED)
    store.write(part_key(folder, number), data)
    if is_whole:
        store.delete(part_key(PARTIAL_PARTS, number))


class _Steps:
    """Counts results since the last step."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.num_unreached = 0
        self._step: dict[str, Any] = self._empty()

    def count(self, found: Answer) -> bool:
        """Count a result; return whether a step is due."""
        step = self._step
        step[NUM_IMAGES] += 1
        if found.is_unreached:
            self.num_unreached += 1
            step[NUM_UNREACHED] += 1
            message = found.answered[schema.ERROR_MESSAGE]
            step[schema.ERROR_MESSAGE] = step[schema.ERROR_MESSAGE] or message
        elif found.row is None:
            step[NUM_REJECTED] += 1
        return bool(step[NUM_IMAGES] == _STEP_IMAGES)

    def take(self) -> pa.Table:
        """Return the step, and begin the next."""
        table = pa.Table.from_pylist([self._step], schema=STEP)
        self._step = self._empty()
        return table

    def _empty(self) -> dict[str, Any]:
        counts = dict.fromkeys((NUM_IMAGES, NUM_REJECTED, NUM_UNREACHED), 0)
        return {schema.PART: self._number, **counts, schema.ERROR_MESSAGE: None}


@lru_cache(maxsize=4)
def _store(output: str, config: StorageConfig, lock_token: str) -> Store:
    """Keep the client of the output between the tasks of a process.

    Its writes fail once another run has taken over the output.
    """
    store = open_store(output, config)
    return store.witnessed(LOCK, lock_token) if lock_token else store


@lru_cache(maxsize=4)
def _readers(config: StorageConfig) -> Readers:
    """Keep connections open between the tasks of a process."""
    return Readers(files=ImageReader(config), embedded=EmbeddedImages(config, IMAGE_COLUMNS))


_REMEDY = "built parts are kept: run the same command to continue"


def built_steps(numbers: list[int], spec: BuildSpec) -> Iterator[pa.Table]:
    """Build parts on the cluster; yield STEP tables as they arrive, in no particular order.

    Raises:
        RaycapError: as raised by a worker.
        RunStopped: workers died repeatedly, or nothing happened for `engine.stall_timeout_s`.
    """
    build: Any = build_parts  # Ray's annotations do not include Arrow tables
    work = pa.table({PART: pa.array(numbers, pa.int64())})
    context = stream_context(
        block_bytes=1,  # a step leaves its task at once
        stall_timeout_s=spec.config.engine.stall_timeout_s,
        debug=spec.debug,
    )
    with ray.data.DataContext.current(context):
        steps = ray.data.from_blocks(blocks_of(work)).map_batches(
            build, batch_size=None, batch_format="pyarrow", fn_kwargs={"spec": spec}
        )
        try:
            # No prefetching: it would delay each step until the next.
            yield from steps.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except Exception as error:
            raise explain(error, _REMEDY) from error
