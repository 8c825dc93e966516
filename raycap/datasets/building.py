"""Building a part: its images are fetched, checked and shrunk, and written by split.

Building a part again goes on where it stands: rows that are there are taken over, images that
were rejected stay so, and only the others are fetched. So the result is the same whether a part
was built at once or after interruptions.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.config import PrepareConfig, StorageConfig
from raycap.datasets.answering import Answer, Outage, Question, Row, answer
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
    part_key,
    read_part,
    read_table,
)
from raycap.errors import ObjectNotFound
from raycap.images import prepare_process
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader, open_store

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
"""How far a task has got on: images since its last step, how many of them were rejected, how many
could not be reached for now, and what was wrong with one of these."""

_STEP_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """What every worker needs to know."""

    output: str
    config: PrepareConfig
    is_moving: bool = False
    """Parts are built again to bring duplicates into one split."""
    debug: bool = False
    """Let Ray tell what it does."""


def build_parts(work: pa.Table, spec: BuildSpec) -> Iterator[pa.Table]:
    """Build the parts whose numbers are in column `part`; yield STEP tables."""
    prepare_process(spec.config.image)
    store = _store(spec.output, spec.config.storage)
    for number in work[schema.PART].to_pylist():
        yield from _build_part(store, number, spec)


def _build_part(store: Store, number: int, spec: BuildSpec) -> Iterator[pa.Table]:
    reader, config, outage = _reader(spec.config.storage), spec.config, Outage()
    before = _rows_before(store, number)
    questions = _questions(store, number, before, is_moving=spec.is_moving)
    steps = _Steps(number)
    answered: list[Row] = []
    words: set[str] = set()
    with SplitWriter(store, number) as writer:
        for found in ordered_map(
            lambda question: answer(question, reader, config, outage),
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
    """Read what an earlier run found of a part's images, by their ids."""
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
    """Yield a part's images in the order of their ids, each with what is known of it."""
    moves: dict[str, str] = {}
    if is_moving:
        table = read_table(store, part_key(MOVES, number), MOVED)
        moves = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    standing = _Standing(store, number, before)
    for planned in read_table(store, part_key(PLANNED_PARTS, number), PLANNED).to_pylist():
        image_id = planned[schema.IMAGE_ID]
        known = before.get(image_id)
        stored_in = known[STORED_IN] if known else None
        yield Question(
            planned=planned,
            split=moves.get(image_id) or stored_in or planned[schema.SPLIT],
            before=known,
            standing=standing.take(image_id),
        )


class _Standing:
    """The rows of a part that stand in its files, read along with the plan.

    A run that was killed between two files may have left a row in both, or in none.
    """

    def __init__(self, store: Store, number: int, before: dict[str, Row]) -> None:
        splits = sorted({row[STORED_IN] for row in before.values()} - {None})
        files = (_rows_of(store, part_key(f"{split}/", number)) for split in splits)
        self._rows = heapq.merge(*files, key=_id_of)
        self._next: Row | None = next(self._rows, None)

    def take(self, image_id: str) -> Row | None:
        """Give the row of an image; ids are asked for in ascending order."""
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
    """Take down the tokens that the part has not had before."""
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
    """Counts answers between two steps."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.num_unreached = 0
        self._step: dict[str, Any] = self._empty()

    def count(self, found: Answer) -> bool:
        """Count an answer; say whether it is time for a step."""
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
        """Give the step, and begin the next."""
        table = pa.Table.from_pylist([self._step], schema=STEP)
        self._step = self._empty()
        return table

    def _empty(self) -> dict[str, Any]:
        counts = dict.fromkeys((NUM_IMAGES, NUM_REJECTED, NUM_UNREACHED), 0)
        return {schema.PART: self._number, **counts, schema.ERROR_MESSAGE: None}


@lru_cache(maxsize=4)
def _store(output: str, config: StorageConfig) -> Store:
    """Keep the output's client from task to task of a worker process."""
    return open_store(output, config)


@lru_cache(maxsize=4)
def _reader(config: StorageConfig) -> ImageReader:
    """Keep connections open from task to task of a worker process."""
    return ImageReader(config)
