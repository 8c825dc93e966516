"""The load stage: reads the rows of a part and yields decoded pixels, or rows with an error code.

Fetching and decoding share a task: image bytes never cross the object store, and threads that wait
for the network leave the cores to threads that decode. Decoding is watched for hangs; a task that
repeats a dead one decodes in a child process, so that the image that killed it becomes a row.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from threading import Lock
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray._private.worker import global_worker  # no public name tells a task's attempt

from raycap import schema
from raycap.captioning.cascade import awaits
from raycap.captioning.columns import failure, recorded_context
from raycap.captioning.context import Context, digests_of, own_values, stale_fields
from raycap.captioning.digests import without_copies
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    CaptionsFooter,
    read_captions_part,
    read_part,
)
from raycap.captioning.prompts import Prompt, is_named
from raycap.captioning.read_ahead import in_tar, with_member_files
from raycap.captioning.source import File, Row, is_held, with_held_files
from raycap.config import CaptionConfig, GenerationConfig, ImageConfig, StorageConfig
from raycap.errors import (
    TRANSIENT_CODES,
    UNREADABLE,
    BucketNotFound,
    ErrorCode,
    ImageError,
    ObjectNotFound,
    StorageError,
)
from raycap.images.decoding import DecodedImage, Target, decode, prepare_process
from raycap.images.encoding import encode
from raycap.images.isolation import HangWatch, Isolated, ProcessDied
from raycap.models.base import BatchRange, ModelSource
from raycap.models.sources import ENDPOINT
from raycap.progress import Spent
from raycap.storage.address import Address, redact
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader, open_store

_BLOCK_BYTES = 2**28
_LIMIT_S = 30.0  # for one image: the largest that `image.max_pixels` allows takes less


class Decoder:
    """Decodes images in this process, from many threads; a hang ends the process."""

    def __init__(self, target: Target, config: ImageConfig, hang_timeout_s: float) -> None:
        prepare_process(config)
        self._target = target
        self._config = config
        self._watch = HangWatch(hang_timeout_s)

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError."""
        with self._watch():
            return decode(data, self._target, self._config)

    def close(self) -> None:
        """Do nothing: there is no child process."""


class IsolatedDecoder:
    """Decodes images one at a time in a child process; an image that kills it becomes a row."""

    def __init__(self, target: Target, config: ImageConfig) -> None:
        self._process: Isolated[bytes, DecodedImage] = Isolated(
            partial(_prepared_decode, target, config)
        )
        self._lock = Lock()

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError."""
        with self._lock:
            try:
                return self._process(data, _LIMIT_S)
            except ProcessDied as error:
                raise ImageError(
                    ErrorCode.DECODE_FAILED, f"the decoder failed on this image: {error}"
                ) from error

    def close(self) -> None:
        """End the child process."""
        self._process.close()


def _prepared_decode(target: Target, config: ImageConfig) -> "partial[DecodedImage]":
    prepare_process(config)
    return partial(decode, target=target, config=config)


_LEAST_FILE_BYTES = 8_000


class ReadsImages(Protocol):
    """The method that `load_image` needs of a reader."""

    def read(self, uri: str, max_bytes: int, size_bytes: int | None = None) -> bytes:
        """Read an image file, as `ImageReader.read` does."""

    def is_version(self, uri: str, etag: str | None, data: bytes) -> bool | None:
        """Return whether it is still the listed one, as `ImageReader.is_version` does."""


class DecodesImages(Protocol):
    """The call that `load_image` needs of a decoder."""

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The description of a run that every worker receives."""

    output: str
    dataset: str | None = None
    """Address of the source, if it is a caption dataset."""
    addresses: Any = None
    """Actor of SecretAddresses, if the source has addresses that must not be in the manifest."""
    config: CaptionConfig
    model: ModelSource
    batches: BatchRange
    """Images per forward pass."""
    batches_per_block: int = 2
    """Largest batches per block; see `resources.fit_blocks`."""
    num_lanes: int = 1
    """Batches that a captioner computes at the same time."""
    torch_threads: int
    """CPU threads per captioner."""
    debug: bool = False
    """Show the output of Ray and of the workers."""
    below: float | None = None
    """For the second model of a cascade: it captions images whose `logprob` is lower."""
    queue: Any = None
    """Actor of WorkQueue, if several streams share the work."""
    digests: Any = None
    """Actor of DigestIndex, if images that are the same bytes are captioned once."""
    root: str | None = None
    """The folder or prefix that was listed; None for a list or one image."""
    retried: frozenset[str] = TRANSIENT_CODES
    """Error codes of rows to caption again in a partial part."""
    spent: Spent | None = None
    """What the run has spent at endpoints before this pass."""
    account: Any = None
    """Actor of Account, if the model is at endpoints."""
    prompts: tuple[Prompt, ...] = (Prompt(name="", text=""),)
    """What is asked about each image."""
    context: Context | None = None
    """What is filled into the prompts, and kept; None if they are plain text."""

    @property
    def block_rows(self) -> int:
        """Images per block from a load task to a captioner.

        A captioner passes rows on when a block is done, so this bounds the delay of a commit and
        the work that is repeated after a captioner dies. Images that keep their aspect ratio can be
        large, so that memory is another bound.
        """
        num_rows = self.batches_per_block * self.batches.most
        if not self.model.target.varies:
            return num_rows
        return max(1, min(num_rows, _BLOCK_BYTES // self.model.target.num_bytes))

    @property
    def block_bytes(self) -> int:
        """Size at which Ray passes a block on.

        Ray gathers images until they have this size, and splits larger tables. Images of varying
        size may be much smaller than the largest: they would wait, so blocks are smaller. Ray puts
        `block_rows` of them together for a captioner.
        """
        if self.is_remote:
            return self.block_rows * _LEAST_FILE_BYTES
        num_rows = self.block_rows // 8 if self.model.target.varies else self.block_rows
        return max(1, num_rows) * (self.model.target.num_bytes + 1_000)

    @property
    def generation(self) -> GenerationConfig:
        """The settings to load the model with: some load only with a prompt that fits them."""
        generation = self.config.generation
        if not is_named(self.prompts):
            return generation
        return generation.model_copy(update={"prompt": self.prompts[0].text})

    @property
    def is_remote(self) -> bool:
        """Whether the model is at endpoints, which get image files instead of pixels."""
        return self.config.model.backend == ENDPOINT

    def without_actors(self) -> "RunSpec":
        """Return what a child process can receive: it is not connected to Ray."""
        return replace(self, addresses=None, queue=None, account=None, digests=None)


def load_parts(work: pa.Table, spec: RunSpec) -> Iterator[pa.Table]:
    """Load WORK rows: yield LOADED tables of `spec.block_rows` images, part after part.

    Within a part, images stored in a caption dataset come in the order of the dataset. If Ray runs
    this again because the process died, images are decoded in a child process.
    """
    reader = image_reader(spec.config.storage)
    decoder = image_decoder(spec)
    try:
        for part, partial in zip(*(column.to_pylist() for column in work.columns), strict=True):
            rows = rows_to_answer(spec, part, partial)
            files = _files(rows, spec, reader)
            images = ordered_map(
                lambda item: load_image(*item, reader, decoder, spec),
                files,
                spec.config.engine.fetch_threads,
            )
            blocks = in_blocks(images, spec.block_rows, schema.LOADED)
            yield from blocks if spec.digests is None else _without_copies(blocks, spec)
    finally:
        decoder.close()


def _files(
    rows: list[Row], spec: RunSpec, reader: ImageReader
) -> Iterator[tuple[Row, File | None]]:
    """Pair rows with their files, where those of many are read together."""
    members = [row for row in rows if in_tar(row)]
    others = [row for row in rows if not in_tar(row)] if members else rows
    limit, num_threads = spec.config.image.max_bytes, spec.config.engine.fetch_threads
    yield from with_member_files(members, reader, limit, num_threads)
    yield from with_held_files(others, spec.dataset, spec.config.storage)


def _without_copies(blocks: Iterator[pa.Table], spec: RunSpec) -> Iterator[pa.Table]:
    def claim(keys: Sequence[bytes], places: Sequence[int]) -> list[bool]:
        found: list[bool] = ray.get(spec.digests.claim.remote(keys, places))
        return found

    return without_copies(blocks, claim, spec.prompts)


def rows_to_answer(spec: RunSpec, part: int, partial: bool) -> list[dict[str, Any]]:
    """Return the rows of a part to caption: all of them, or for a partial part those to repeat.

    Those are rows that changed or failed in a way that is retried, rows about which a prompt was
    not asked yet, or for the second model of a cascade the rows with weak captions.
    """
    store = _store(spec.output, spec.config.storage)
    manifest = read_part(store, MANIFEST, part)
    rows: list[dict[str, Any]] = manifest.to_pylist()
    attempts = [1] * len(rows)
    asked: list[list[int] | None] = [None] * len(rows)
    chosen = list(range(len(rows)))
    if partial and spec.below is None:
        old, footer = read_captions_part(store, part)
        attempts, changed, failed = _stale_rows(manifest, old, spec.retried)
        if is_named(spec.prompts):
            asked = _open_prompts(spec, old, footer, changed)
        else:
            asked = [None if stale else [] for stale in pc.or_(changed, failed).to_pylist()]
        if spec.context is not None:
            again = _other_context(spec.context, manifest, old)
            asked = [_both(one, other, spec) for one, other in zip(asked, again, strict=True)]
        # If none is stale (an image changed and changed back), all are repeated: the part must be
        # rewritten with the revision of its manifest, or it would stay pending forever.
        chosen = [index for index, prompts in enumerate(asked) if prompts != []]
        if not chosen:
            chosen, asked = list(range(len(rows))), [None] * len(rows)
    elif partial and spec.below is not None:
        old = read_part(store, CAPTIONS, part)
        attempts = old[schema.ATTEMPTS].to_pylist()
        weak = awaits(old, spec.model.name, spec.below)
        chosen = pc.indices_nonzero(weak).to_pylist()
    ids = [rows[index][schema.IMAGE_ID] for index in chosen]
    whole = {} if spec.addresses is None else ray.get(spec.addresses.of.remote(ids))
    per_image = len(spec.prompts)
    num_answers = sum(per_image if asked[n] is None else len(asked[n] or ()) for n in chosen)
    return [
        {
            **rows[index],
            schema.URI: whole.get(rows[index][schema.IMAGE_ID], rows[index][schema.URI]),
            schema.PART: part,
            schema.ROW: index,
            schema.NUM_ROWS: num_answers,
            schema.PARTIAL: partial,
            schema.ATTEMPTS: attempts[index],
            schema.PROMPTS: asked[index],
        }
        for index in chosen
    ]


def _stale_rows(
    manifest: pa.Table, old: pa.Table, retried: frozenset[str]
) -> tuple[list[int], pa.ChunkedArray, pa.ChunkedArray]:
    """Return of each row the attempt number, whether its image changed, and whether to retry it."""
    changed = pc.fill_null(pc.not_equal(manifest[schema.ETAG], old[schema.ETAG]), False)
    failed = _is_retried(old[schema.ERROR_CODE], retried)
    again = zip(
        changed.to_pylist(), failed.to_pylist(), old[schema.ATTEMPTS].to_pylist(), strict=True
    )
    attempts = [1 if is_changed else count + is_retried for is_changed, is_retried, count in again]
    return attempts, changed, failed


def _is_retried(codes: pa.ChunkedArray, retried: frozenset[str]) -> pa.ChunkedArray:
    # Transient failures too, even if others are to be retried: their part is rewritten anyway.
    wanted = pa.array(sorted(retried | TRANSIENT_CODES), pa.string())
    return pc.is_in(codes, value_set=wanted)


def _open_prompts(
    spec: RunSpec, old: pa.Table, footer: CaptionsFooter, changed: pa.ChunkedArray
) -> list[list[int] | None]:
    """Return the prompts to ask about each row of a committed part; None for all of them."""
    is_open = []
    for prompt in spec.prompts:
        if footer.prompts.get(prompt.name) != prompt.digest:
            is_open.append([True] * len(old))
            continue
        answers = old[prompt.name]
        codes = pc.struct_field(answers, schema.ERROR_CODE)
        again = pc.or_(_is_retried(codes, spec.retried), pc.is_null(answers))
        is_open.append(pc.or_(again, changed).to_pylist())
    found: list[list[int] | None] = []
    for of_row in zip(*is_open, strict=True):
        indices = [index for index, is_asked in enumerate(of_row) if is_asked]
        found.append(None if len(indices) == len(spec.prompts) else indices)
    return found


def _other_context(
    context: Context, manifest: pa.Table, old: pa.Table
) -> Iterator[list[int] | None]:
    """Yield the prompts to ask about each row because of other values; None for all of them."""
    recorded = recorded_context(old)
    for now, before in zip(manifest[schema.CONTEXT].to_pylist(), recorded, strict=True):
        yield context.open_prompts(stale_fields(now, before))


def _both(one: list[int] | None, other: list[int] | None, spec: RunSpec) -> list[int] | None:
    """Return the prompts to ask for either reason."""
    if one is None or other is None:
        return None
    indices = sorted({*one, *other})
    return None if len(indices) == len(spec.prompts) else indices


@lru_cache(maxsize=4)
def _store(output: str, config: StorageConfig) -> Store:
    """Keep the client of the output across the tasks of a worker process."""
    return open_store(output, config)


@lru_cache(maxsize=4)
def image_reader(config: StorageConfig) -> ImageReader:
    """Keep connections open across the tasks of a worker process."""
    return ImageReader(config)


def is_second_attempt() -> bool:
    """Whether Ray runs this task again because its process died. False outside of Ray.

    Call it in the thread of the task.
    """
    if not ray.is_initialized():
        return False
    worker: Any = global_worker
    return bool(worker.core_worker.get_current_task_attempt_number())


def image_decoder(spec: RunSpec) -> Decoder | IsolatedDecoder:
    """Return the decoder for this task: in a child process if an earlier attempt died."""
    if is_second_attempt():
        return IsolatedDecoder(spec.model.target, spec.config.image)
    return Decoder(spec.model.target, spec.config.image, spec.config.engine.hang_timeout_s)


def load_image(
    row: dict[str, Any],
    file: File | None,
    reader: ReadsImages,
    decoder: DecodesImages,
    spec: RunSpec,
) -> dict[str, Any]:
    """Decode one image into a LOADED row; fetch it first if no file is given."""
    size_bytes = row.pop(schema.SIZE_BYTES)
    context = row.pop(schema.CONTEXT, None)
    beside: dict[str, bytes] = row.pop(schema.BESIDE, {})
    uri = row[schema.URI]
    loaded: dict[str, Any] = {
        **row,
        schema.URI: redact(uri),
        schema.CONTEXT_DIGESTS: digests_of(context),
        schema.STATUS: schema.STATUS_OK,
        schema.NUM_BYTES: 0,
        schema.ALTERNATIVES: [],
        # The captioners repeat the row for each prompt.
        schema.PROMPT: 0,
        schema.IS_FIRST: True,
    }
    values: dict[str, str] = {}
    try:
        if spec.context is not None:
            values = _known_values(row, context, beside, spec)
            loaded[schema.KEPT_FIELDS] = spec.context.kept(values)
        if spec.is_remote and spec.config.endpoint.send == "uri":
            return _to_send(loaded, uri, values, spec)
        if isinstance(file, ImageError):
            raise file
        data = _fetch(row, size_bytes, reader, spec) if file is None else file
        loaded[schema.NUM_BYTES] = len(data)
        loaded[schema.DIGEST] = sha256(data).hexdigest()
        image = decoder(data)
        if spec.context is not None:
            values |= image.exif
            loaded[schema.KEPT_FIELDS] = spec.context.kept(values)
            loaded[schema.QUESTIONS] = spec.context.questions(row.get(schema.PROMPTS), values)
    except ImageError as error:
        return {**loaded, **failure(error)}
    loaded[schema.PIXELS] = _content(image, data, spec)
    loaded[schema.INPUT_HEIGHT_PX], loaded[schema.INPUT_WIDTH_PX], _ = image.pixels.shape
    loaded[schema.WIDTH_PX] = image.width_px
    loaded[schema.HEIGHT_PX] = image.height_px
    return loaded


def _known_values(
    row: dict[str, Any], context: str | None, texts: dict[str, bytes], spec: RunSpec
) -> dict[str, str]:
    """Return what is known of an image before it is read. Raises ImageError.

    Args:
        row: Of the image.
        context: Of its manifest row.
        texts: Sidecars that were read already, by their addresses.
        spec: Of a run with a context.
    """
    filled = spec.context
    assert filled is not None
    uri, image_id = row[schema.URI], row[schema.IMAGE_ID]
    is_below = spec.root is not None or (spec.dataset is not None and is_held(row, spec.dataset))
    # Of its own: that of a preflight measures the images.
    reader = image_reader(spec.config.storage)

    def read(sidecar: str, max_bytes: int) -> bytes:
        return texts[sidecar] if sidecar in texts else reader.read(sidecar, max_bytes)

    beside = filled.beside(context, uri, read)
    return beside | own_values(image_id, uri, filled.max_chars, is_below_source=is_below)


def _content(image: DecodedImage, data: bytes, spec: RunSpec) -> bytes:
    """Return what the captioner gets of an image: its pixels, or for a server a file."""
    if not spec.is_remote:
        return image.pixels.tobytes()
    endpoint = spec.config.endpoint
    return encode(image, data, endpoint.image_format, endpoint.quality)


def _to_send(
    loaded: dict[str, Any], uri: str, values: dict[str, str], spec: RunSpec
) -> dict[str, Any]:
    """Return a row with the address of its image, which a server reads. Raises ImageError."""
    if not Address.parse(uri).is_web:
        raise ImageError(
            ErrorCode.NOT_FOUND, f"{uri}: not an https:// address, as endpoint.send=uri requires"
        )
    if spec.context is not None:
        loaded[schema.QUESTIONS] = spec.context.questions(loaded.get(schema.PROMPTS), values)
    return {**loaded, schema.PIXELS: uri.encode()}


def _fetch(
    row: dict[str, Any], size_bytes: int | None, reader: ReadsImages, spec: RunSpec
) -> bytes:
    uri, limit = row[schema.URI], spec.config.image.max_bytes
    if size_bytes is not None and size_bytes > limit:
        raise ImageError(ErrorCode.TOO_LARGE, f"{size_bytes:,} bytes, more than {limit:,}")
    try:
        data = reader.read(uri, limit, size_bytes)
        if spec.below is not None and reader.is_version(uri, row[schema.ETAG], data) is False:
            # The caption of the first model stays; the next run lists the image as changed.
            raise ImageError(
                ErrorCode.NOT_FOUND, f"{uri}: has changed since the first model captioned it"
            )
        return data
    except UNREADABLE as error:
        if isinstance(error, ObjectNotFound) and spec.root is not None:
            _check_source(spec.root)
        raise ImageError.of(error) from error
    except BucketNotFound as error:
        if spec.root is not None:
            raise
        # A list may name any bucket.
        raise ImageError(ErrorCode.NOT_FOUND, str(error)) from error


def _check_source(root: str) -> None:
    """Raise StorageError if the source itself is gone, as when a file system is not mounted.

    Its images would otherwise all be recorded as missing. A folder that others are mounted on is
    empty when they are not.
    """
    address = Address.parse(root)
    if not address.is_local:
        return
    try:
        with os.scandir(address.local_path) as entries:
            is_gone = next(entries, None) is None
    except PermissionError:
        return
    except OSError:
        is_gone = True
    if is_gone:
        raise StorageError(
            f"{root}: the source is no longer there, or is empty now; check that it is mounted on "
            "every node, and run the same command to continue",
            uri=root,
        )


def in_blocks(
    images: Iterator[dict[str, Any]], num_rows: int, columns: pa.Schema
) -> Iterator[pa.Table]:
    """Gather rows into tables of `num_rows`, the last one shorter."""
    rows: list[dict[str, Any]] = []
    for image in images:
        rows.append(image)
        if len(rows) == num_rows:
            yield pa.Table.from_pylist(rows, schema=columns)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=columns)
