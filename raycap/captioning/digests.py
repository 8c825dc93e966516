"""Once per distinct image: the model is asked about one of all images that are the same bytes.

An index on the driver's disk has the digest of every image that has its answers, and of every image
that is under way. Load tasks ask it per block. The first image with a digest goes to the model; the
others pass without pixels, and are committed as rows that await its answers, which `copies` writes
at the end of the run.

The index belongs to one pass. What it holds beyond the committed parts is only which row asks for
which digest, so nothing is lost with it: the next pass begins with the digests of committed rows.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from mmap import mmap
from pathlib import Path
from struct import Struct
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.parts import MANIFEST, CaptionsFooter, read_captions_part, read_part
from raycap.captioning.plan import CaptionPlan
from raycap.captioning.prompts import Prompt
from raycap.errors import TRANSIENT_CODES, ErrorCode, StorageError
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map

_KEY_BYTES = 16
_ROW_BITS = 20  # as `engine.part_size` is at most 1,000,000
_ENTRY = Struct(f"<{_KEY_BYTES}sQ")
"""A key, and one more than the place of its row; 0 in an empty slot."""
_SLOTS_PER_KEY = 2  # so that a search rarely takes more than a few steps
_LEAST_SLOTS = 1024
_NO_PLACE = 2**63
_AWAITS = {
    schema.STATUS: schema.STATUS_FAILED,
    schema.ERROR_CODE: str(ErrorCode.AWAITS_ORIGINAL),
    schema.ERROR_MESSAGE: "another image is the same bytes: its answers are awaited",
}


def salt_of(prompt: Prompt) -> bytes:
    """Return the bytes that set the keys of a prompt apart; none without named prompts."""
    return prompt.digest.encode() if prompt.name else b""


def key_of(digest: str, salt: bytes) -> bytes:
    """Return the key of the answer to a prompt about all images with a digest."""
    if not salt:
        return bytes.fromhex(digest)[:_KEY_BYTES]
    return blake2b(bytes.fromhex(digest) + salt, digest_size=_KEY_BYTES).digest()


def place_of(part: int, row: int) -> int:
    """Return the place of a row as one number."""
    return part << _ROW_BITS | row


def have_answers(
    rows: pa.Table, footer: CaptionsFooter, name: str, digest: str, again: Collection[str] = ()
) -> pa.ChunkedArray:
    """Return which rows of a captions part have an answer that equal images can share.

    That is a caption, or a failure of the model: of an image that could be decoded. Others are
    failures to read a file, or each image shows them itself.

    Args:
        rows: Of the part.
        footer: Of the part.
        name: Of the prompt that is answered; empty in a run without named prompts.
        digest: Of the prompt.
        again: Error codes of rows that are to be captioned again.
    """
    table: Any = rows
    if name:
        if footer.prompts.get(name) != digest:
            return pa.chunked_array([pa.repeat(False, len(rows))])
        fields = (schema.CAPTION, schema.ERROR_CODE)
        table = {field: pc.struct_field(rows[name], field) for field in fields}
    code = table[schema.ERROR_CODE]
    passing = pa.array(sorted({*again, ErrorCode.AWAITS_ORIGINAL}), pa.string())
    is_final = pc.and_(pc.is_valid(code), pc.invert(pc.is_in(code, value_set=passing)))
    has_caption = pc.and_(pc.is_valid(table[schema.CAPTION]), pc.is_null(code))
    is_decoded = pc.and_(pc.is_valid(rows[schema.DIGEST]), pc.is_valid(rows[schema.WIDTH_PX]))
    return pc.and_(is_decoded, pc.or_(has_caption, is_final))


def have_captions(
    rows: pa.Table, footer: CaptionsFooter, name: str, digest: str
) -> pa.ChunkedArray:
    """Return which rows of a captions part have a caption; arguments as of `have_answers`."""
    return have_answers(rows, footer, name, digest, tuple(ErrorCode))


class DigestIndex:
    """Which row asks the model about each digest. An actor on the driver's machine.

    A hash table in a file, with linear probing. A B-tree would write a page per digest, as digests
    are random; here the system writes pages when it likes. If the process dies, they are there all
    the same: Ray starts another process on the file, and repeats the call.
    """

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._table = mmap(opened.fileno(), 0)
        self._num_slots = len(self._table) // _ENTRY.size

    @classmethod
    def create(cls, file: Path, num_keys: int) -> "DigestIndex":
        """Create an empty one, with room for so many keys.

        Raises:
            StorageError: the disk is full.
        """
        num_bytes = _ENTRY.size * (_SLOTS_PER_KEY * num_keys + _LEAST_SLOTS)
        with file.open("wb") as opened:
            try:
                # Otherwise a disk that fills up later kills the process that writes to the table.
                os.posix_fallocate(opened.fileno(), 0, num_bytes)
            except OSError as error:
                raise StorageError(
                    f"{file}: no room for the {num_bytes:,} bytes of an index of all images "
                    f"({error.strerror}); free some, or let TMPDIR name a folder on another disk",
                    uri=str(file),
                ) from error
        return cls(file)

    def claim(self, keys: Sequence[bytes], places: Sequence[int]) -> list[bool]:
        """Return for each key whether it is of the row at this place.

        It is if this row was the first to claim it. A row that asks again gets the same answer, as
        Ray repeats the work of dead tasks.
        """
        return [self._claim(key, place) for key, place in zip(keys, places, strict=True)]

    def _claim(self, key: bytes, place: int) -> bool:
        table, size = self._table, _ENTRY.size
        slot = int.from_bytes(key[:8], "little") % self._num_slots
        for _ in range(self._num_slots):
            start = slot * size
            found, number = _ENTRY.unpack(table[start : start + size])
            if not number:
                table[start : start + size] = _ENTRY.pack(key, place + 1)
                return True
            if found == key:
                return bool(number == place + 1)
            slot = (slot + 1) % self._num_slots
        raise ValueError("more digests than images were planned")

    def close(self) -> None:
        """Close the file."""
        self._table.close()


def write_index(  # noqa: PLR0913  what decides which rows have their answers
    file: Path,
    store: Store,
    plan: CaptionPlan,
    committed: Iterable[int],
    prompts: Sequence[Prompt],
    again: Collection[str],
    num_threads: int,
) -> int:
    """Write an index with the digests of committed rows that have their answers.

    Transient failures are left out, as they are retried whenever their part is rewritten. So are
    failures of images that have changed; their captions have no place, so that the rows themselves
    are not asked about if their bytes turn out to be the same (`copies.with_own_answers`).

    Args:
        file: To write.
        store: The output.
        plan: Its manifest.
        committed: Numbers of its captions parts.
        prompts: Of the run.
        again: Error codes of rows that are to be captioned again.
        num_threads: Parts to read at the same time.

    Returns:
        The number of answers that rows can share.
    """

    def read(number: int) -> list[tuple[bytes, int]]:
        rows, footer = read_captions_part(store, number)
        changed: set[int] = set()
        if footer.revision != plan.parts[number].revision:
            manifest = read_part(store, MANIFEST, number, [schema.ETAG])
            differs = pc.not_equal(manifest[schema.ETAG], rows[schema.ETAG])
            changed = set(pc.indices_nonzero(pc.fill_null(differs, False)).to_pylist())
        found = []
        for prompt in prompts:
            of_prompt = rows, footer, prompt.name, prompt.digest
            final = pc.indices_nonzero(have_answers(*of_prompt, {*again, *TRANSIENT_CODES}))
            captioned = set(pc.indices_nonzero(have_captions(*of_prompt)).to_pylist())
            digests = rows[schema.DIGEST].take(final).to_pylist()
            salt = salt_of(prompt)
            for row, digest in zip(final.to_pylist(), digests, strict=True):
                if row not in changed:
                    found.append((key_of(digest, salt), place_of(number, row)))
                elif row in captioned:
                    found.append((key_of(digest, salt), _NO_PLACE))
        return found

    num_shared = 0
    with closing(DigestIndex.create(file, plan.num_images * len(prompts))) as index:
        for found in ordered_map(read, committed, num_threads):
            num_shared += sum(index.claim(*zip(*found, strict=True)) if found else ())
    return num_shared


Claim = Callable[[Sequence[bytes], Sequence[int]], list[bool]]
"""`DigestIndex.claim`, wherever the index is."""


def without_copies(
    blocks: Iterator[pa.Table], claim: Claim, prompts: Sequence[Prompt]
) -> Iterator[pa.Table]:
    """Yield LOADED tables in which images that are not to be asked about have no pixels.

    Args:
        blocks: LOADED tables.
        claim: Asks the index.
        prompts: Of the run.
    """
    salts = [salt_of(prompt) for prompt in prompts]
    for block in blocks:
        split = _claimed(block, salts, claim)
        yield block if split is None else _split(block, *split)


Split = tuple[list[tuple[int, list[int]]], list[tuple[int, list[int]]]]
"""Rows with the prompts to ask about them, and rows with the prompts whose answers they await."""


def _claimed(block: pa.Table, salts: list[bytes], claim: Claim) -> Split | None:
    """Ask the index about the images of a block; None if the model is to be asked about all."""
    names = [schema.PART, schema.ROW, schema.DIGEST, schema.PROMPTS]
    is_read = pc.and_(pc.is_valid(block[schema.PIXELS]), pc.is_valid(block[schema.DIGEST]))
    chosen = pc.indices_nonzero(is_read)
    rows = block.select(names).take(chosen).to_pylist()
    wanted: list[tuple[int, int]] = []
    keys, places = [], []
    every = range(len(salts))
    for place, row in zip(chosen.to_pylist(), rows, strict=True):
        for prompt in every if row[schema.PROMPTS] is None else row[schema.PROMPTS]:
            wanted.append((place, prompt))
            keys.append(key_of(row[schema.DIGEST], salts[prompt]))
            places.append(place_of(row[schema.PART], row[schema.ROW]))
    if not keys:
        return None
    is_asked = claim(keys, places)
    if all(is_asked):
        return None
    shared = set(chosen.to_pylist())
    asked: dict[int, list[int]] = {row: [] for row in range(len(block)) if row not in shared}
    awaited: dict[int, list[int]] = {}
    for (row, prompt), is_own in zip(wanted, is_asked, strict=True):
        (asked if is_own else awaited).setdefault(row, []).append(prompt)
    return sorted(asked.items()), sorted(awaited.items())


def _split(
    block: pa.Table, asked: list[tuple[int, list[int]]], awaited: list[tuple[int, list[int]]]
) -> pa.Table:
    """Return a block in which each row stands for the prompts to ask, or for those to await.

    A row of which some are to be asked and some are awaited becomes two.
    """
    whole = {row for row, _ in asked} ^ {row for row, _ in awaited}
    before = block[schema.PROMPTS].to_pylist()
    tables = []
    for rows, changes in ((asked, {}), (awaited, {**_AWAITS, schema.PIXELS: None})):
        places = [row for row, _ in rows]
        table = block.take(pa.array(places, pa.int64()))
        prompts = [before[row] if row in whole else numbers for row, numbers in rows]
        table = _with(table, schema.PROMPTS, prompts)
        for name, value in changes.items():
            table = _with(table, name, [value] * len(places))
        tables.append(table)
    kept, copies = tables
    # A row that has some answers of its own counts as asked.
    is_copy = [row in whole and before[row] is None for row, _ in awaited]
    attempts = zip(is_copy, copies[schema.ATTEMPTS].to_pylist(), strict=True)
    copies = _with(
        copies, schema.ATTEMPTS, [schema.NO_ATTEMPTS if own else count for own, count in attempts]
    )
    copies = _with(copies, schema.IS_FIRST, [row in whole for row, _ in awaited])
    return pa.concat_tables([kept, copies])


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(place, field, pa.array(values, field.type))


def is_failed(rows: pa.Table) -> pa.ChunkedArray:
    """Return which rows have failed; those that await the answers about an equal image have not."""
    awaits = pc.equal(rows[schema.ERROR_CODE], str(ErrorCode.AWAITS_ORIGINAL))
    failed = pc.equal(rows[schema.STATUS], schema.STATUS_FAILED)
    return pc.and_(failed, pc.invert(pc.fill_null(awaits, False)))
