"""What becomes of one planned image: a row of the dataset, or a reason why there is none."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from raycap import schema
from raycap.config import PrepareConfig
from raycap.datasets.embedding import StoredImage, store_image
from raycap.datasets.parts import ANSWERED, PLANNED, STORED_IN, WORDS
from raycap.errors import TRANSIENT_CODES, ErrorCode, ImageError, ObjectNotFound, TransientError
from raycap.metrics.tokenizer import tokenize
from raycap.storage.address import redact
from raycap.storage.stores import ImageReader

Row = dict[str, Any]

GIVE_UP_AFTER = 32
"""Images of a part that fail one after the other for a passing reason: what is left of the part
is then left for a later run, as each may have cost minutes."""

_MESSAGE_CHARS = 500
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A planned image, and what is known of it from an earlier run."""

    planned: Row
    """PLANNED."""
    split: str
    """Where its row is to stand."""
    before: Row | None
    """ANSWERED, of an earlier run."""
    standing: Row | None
    """DATASET, where its row stands already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an image."""

    answered: Row
    """ANSWERED; `words` still empty."""
    row: Row | None
    """DATASET; None where the image is rejected, or not reached for now."""
    tokens: list[list[str]]
    """Of each caption that is kept."""

    @property
    def is_unreached(self) -> bool:
        """Whether a later run may still get the image."""
        return self.answered[schema.ERROR_CODE] in TRANSIENT_CODES


class Outage:
    """Counts images that failed one after the other for a passing reason; shared by threads."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def note(self, *, is_unreached: bool) -> None:
        """Count one more image, or begin anew."""
        self._in_a_row = self._in_a_row + 1 if is_unreached else 0

    @property
    def is_lasting(self) -> bool:
        """Whether it is better to try later."""
        return self._in_a_row >= GIVE_UP_AFTER


def answer(
    question: Question, reader: ImageReader, config: PrepareConfig, outage: Outage
) -> Answer:
    """Take over what is known of an image, or fetch and check it.

    Raises:
        StorageError: no image of that store can be read.
    """
    before, standing = question.before, question.standing
    if before and before[STORED_IN] and standing:
        return _kept(question, {**standing, schema.SPLIT: question.split}, before)
    if before and before[schema.ERROR_CODE] not in (None, *TRANSIENT_CODES):
        return Answer(answered=before, row=None, tokens=[])
    try:
        if outage.is_lasting:
            raise ImageError(ErrorCode.NETWORK, f"not tried: {GIVE_UP_AFTER} before it failed")
        data = _fetch(question.planned, reader, config)
        outage.note(is_unreached=False)
        image = store_image(data, config)
    except ImageError as error:
        if error.code in TRANSIENT_CODES:
            outage.note(is_unreached=True)
        return _rejected(question, error)
    return _kept(question, _row(question, data, image, config), {schema.NUM_BYTES: len(data)})


def _fetch(planned: Row, reader: ImageReader, config: PrepareConfig) -> bytes:
    limit = config.image.max_bytes
    uri, offset_bytes = planned[schema.URI], planned[schema.OFFSET_BYTES]
    size_bytes = planned[schema.SIZE_BYTES]
    if size_bytes is not None and size_bytes > limit:
        raise ImageError(ErrorCode.TOO_LARGE, f"{size_bytes:,} bytes, more than {limit:,}")
    try:
        if offset_bytes is None:
            return reader.read(uri, limit)
        return reader.read_range(uri, offset_bytes, limit if size_bytes is None else size_bytes)
    except ObjectNotFound as error:
        raise ImageError(ErrorCode.NOT_FOUND, str(error)) from error
    except TransientError as error:
        raise ImageError(error.code, error.message) from error


def _row(question: Question, data: bytes, image: StoredImage, config: PrepareConfig) -> Row:
    planned = question.planned
    is_embedded = config.embed.enabled
    return {
        schema.IMAGE_ID: planned[schema.IMAGE_ID],
        schema.SOURCE_ID: planned[schema.SOURCE_ID],
        # Where it is all that leads to the image, it must do so, signature and all.
        schema.URI: redact(planned[schema.URI]) if is_embedded else planned[schema.URI],
        schema.BYTES: image.data if is_embedded else None,
        schema.CAPTIONS_LIST: planned[schema.CAPTIONS_LIST],
        schema.SPLIT: question.split,
        schema.WIDTH_PX: image.width_px,
        schema.HEIGHT_PX: image.height_px,
        schema.DIGEST: blake2b(data, digest_size=_DIGEST_BYTES).hexdigest(),
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
        schema.ERROR_MESSAGE: error.message[:_MESSAGE_CHARS],
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
