"""The end of a run that captions equal images once: the copies get the answers of the originals.

An image with the same bytes as another was committed as a row that awaits the other's answers. Here
they are joined by digest, on disk, and the rows are written part by part. Any committed row with
the digest is as good as another: so it does not matter which image was asked about, nor whether it
has been deleted or has changed meanwhile, as long as one row has the answers.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.columns import answer_columns, copy_answers, with_replaced
from raycap.captioning.digests import have_answers, have_captions, key_of, salt_of
from raycap.captioning.parts import (
    CAPTIONS,
    CaptionsFooter,
    encode_again,
    in_pages,
    read_captions_part,
)
from raycap.captioning.prompts import Prompt
from raycap.errors import ErrorCode
from raycap.scratch import scratch_database
from raycap.storage.base import Store, WriteLock
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import part_key

if TYPE_CHECKING:
    import duckdb

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 512_000_000
_PAGE_ROWS = 16_384
_JOINED = """
    SELECT wanted.part, wanted.row, answers.* EXCLUDE (key)
    FROM wanted JOIN (
        SELECT * EXCLUDE (part, row, is_failed) FROM found
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY is_failed, part, row) = 1
    ) answers USING (key)
    ORDER BY 1, 2
"""
_LOCATED = pa.schema([("key", pa.binary()), (schema.PART, pa.int64()), (schema.ROW, pa.int32())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The rows of an output that await the answers about equal images."""

    store: Store
    lock: WriteLock
    awaiting: list[int]
    """Numbers of the parts that have such rows."""
    committed: list[int]
    """Numbers of all parts, which may have the answers."""
    num_threads: int

    def complete(self, prompts: Iterable[Prompt]) -> dict[int, CaptionsFooter]:
        """Copy all answers that there are; return the footers of the parts that were written.

        Raises:
            DatasetError: a part is damaged.
            RunConflict: another writer has taken over the output.
            StorageError: the output cannot be read or written.
        """
        written: dict[int, CaptionsFooter] = {}
        for prompt in prompts:
            with scratch_database(_MEMORY_BYTES) as database:
                written |= self._complete(database, prompt)
        return written

    def _complete(
        self, database: "duckdb.DuckDBPyConnection", prompt: Prompt
    ) -> Iterator[tuple[int, CaptionsFooter]]:
        """Yield the number and footer of each part written."""
        num_wanted = self._gather_wanted(database, prompt)
        num_found = self._gather_answers(database, prompt) if num_wanted else 0
        logger.info("copies prompt=%r distinct=%d found=%d", prompt.name, num_wanted, num_found)
        if num_found:
            pages = database.sql(_JOINED).to_arrow_reader(_PAGE_ROWS)
            yield from ordered_map(
                lambda found: self._write(*found, prompt), by_part(pages), self.num_threads
            )

    def _gather_wanted(self, database: "duckdb.DuckDBPyConnection", prompt: Prompt) -> int:
        """Note which rows await answers to a prompt; return the number of distinct ones."""
        salt = salt_of(prompt)

        def read(number: int) -> pa.Table:
            rows, _ = read_captions_part(self.store, number)
            return _located(rows, number, _await(rows, prompt.name), salt)

        database.execute("CREATE TABLE wanted (key BLOB, part BIGINT, row INTEGER)")
        for page in in_pages(ordered_map(read, self.awaiting, self.num_threads), _PAGE_ROWS):
            with _registered(database, page):
                database.execute("INSERT INTO wanted SELECT * FROM page")
        database.execute("CREATE TABLE missing AS SELECT DISTINCT key FROM wanted")
        return _count(database, "SELECT count(*) FROM missing")

    def _gather_answers(self, database: "duckdb.DuckDBPyConnection", prompt: Prompt) -> int:
        """Find the answers; return their number."""
        salt = salt_of(prompt)

        def read(number: int) -> pa.Table:
            rows, footer = read_captions_part(self.store, number)
            has_answer = have_answers(rows, footer, prompt.name, prompt.digest)
            located = _located(rows, number, has_answer, salt)
            answers = answer_columns(rows.filter(has_answer), prompt.name)
            is_failed = pc.is_valid(answers[schema.ERROR_CODE])
            return pa.table(
                [*located.columns, is_failed, *answers.columns],
                [*located.column_names, "is_failed", *answers.column_names],
            )

        has_any = False
        for page in in_pages(ordered_map(read, self.committed, self.num_threads), _PAGE_ROWS):
            with _registered(database, page):
                if not has_any:
                    database.execute("CREATE TABLE found AS SELECT * FROM page LIMIT 0")
                database.execute(
                    "INSERT INTO found SELECT * FROM page SEMI JOIN missing USING (key)"
                )
                # Another row may have the caption of an image on which the model failed.
                database.execute(
                    "DELETE FROM missing WHERE key IN (SELECT key FROM page WHERE NOT is_failed)"
                )
            has_any = True
            if not _count(database, "SELECT count(*) FROM missing"):
                break
        return _count(database, "SELECT count(DISTINCT key) FROM found") if has_any else 0

    def _write(self, number: int, answers: pa.Table, prompt: Prompt) -> tuple[int, CaptionsFooter]:
        """Write a part in which some rows have got their answers."""
        self.lock.check()
        rows, before = read_captions_part(self.store, number)
        copied = copy_answers(rows, answers, prompt.name, list(before.prompts))
        # With the time of its captions, from which a report derives the speed.
        data, footer = encode_again(
            copied, before, committed_at=before.committed_at, text=before.text
        )
        self.store.write(part_key(CAPTIONS, number), data)
        return number, footer


def with_own_answers(
    rows: pa.Table, old: pa.Table, footer: CaptionsFooter, prompts: Mapping[str, str]
) -> pa.Table:
    """Return the rows of a part that is rewritten: those whose bytes are as before keep captions.

    They are those that await the answers about the bytes that they had: a file was written anew,
    say, and has another ETag.

    Args:
        rows: As they are to be written.
        old: As they were.
        footer: Of the part as it was.
        prompts: Digests of the named prompts of the run.
    """
    is_same = pc.fill_null(pc.equal(rows[schema.DIGEST], old[schema.DIGEST]), False)
    for name in prompts or [""]:
        has_own = have_captions(old, footer, name, prompts.get(name, ""))
        kept = pc.and_(_await(rows, name), pc.and_(is_same, has_own))
        places = pc.indices_nonzero(kept).cast(pa.int32())
        if len(places):
            own = old.take(places)
            answers = answer_columns(own, name).append_column(schema.ROW, places)
            rows = copy_answers(rows, answers, name, list(prompts), counts=True)
            rows = with_replaced(rows, schema.ATTEMPTS, own[schema.ATTEMPTS], places.to_numpy())
    return rows


def _await(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """Return which rows await an answer to a prompt."""
    code = rows[schema.ERROR_CODE]
    if name:
        if name not in rows.column_names:
            return pa.chunked_array([pa.repeat(False, len(rows))])
        code = pc.struct_field(rows[name], schema.ERROR_CODE)
    awaits = pc.equal(code, str(ErrorCode.AWAITS_ORIGINAL))
    return pc.fill_null(awaits, False)


def _located(rows: pa.Table, part: int, chosen: pa.ChunkedArray, salt: bytes) -> pa.Table:
    """Return the keys of chosen rows of a part, and where these are."""
    places = pc.indices_nonzero(chosen)
    keys = [key_of(digest, salt) for digest in rows[schema.DIGEST].take(places).to_pylist()]
    return pa.table([keys, [part] * len(keys), places.cast(pa.int32())], schema=_LOCATED)


def by_part(pages: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows of each part, from pages that are sorted by part."""
    pieces = (
        (int(values["values"].as_py()), page.slice(start, values["counts"].as_py()))
        for page in pages
        for start, values in _runs(page[schema.PART])
    )
    for number, found in groupby(pieces, key=lambda piece: piece[0]):
        yield number, pa.Table.from_batches([batch for _, batch in found])


def _runs(parts: pa.Array) -> Iterator[tuple[int, pa.StructScalar]]:
    """Yield where each value of a sorted array begins, with its count."""
    start = 0
    for values in pc.value_counts(parts):
        yield start, values
        start += values["counts"].as_py()


@contextmanager
def _registered(database: "duckdb.DuckDBPyConnection", page: pa.Table) -> Iterator[None]:
    """Let statements within the block read a table as `page`."""
    database.register("page", page)
    yield
    database.unregister("page")


def _count(database: "duckdb.DuckDBPyConnection", query: str) -> int:
    ((count,),) = database.execute(query).fetchall()
    return int(count)
