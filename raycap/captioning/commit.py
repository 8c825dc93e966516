"""The committer: gathers the answered rows of each part and writes complete parts.

Rows arrive in any order. A part is written atomically, under a name that depends only on its
number, once all rows that this run answers of it have arrived. So a crash loses unfinished parts
only, and no row is written twice, whatever Ray repeats.
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning import telemetry
from raycap.captioning.cascade import Cascade
from raycap.captioning.columns import AnswerColumns, CaptionColumns
from raycap.captioning.copies import with_own_answers
from raycap.captioning.parts import (
    CAPTIONS,
    CaptionsFooter,
    encode_captions,
    read_captions_part,
)
from raycap.captioning.plan import PartVersions
from raycap.errors import RunStopped
from raycap.runs.records import now
from raycap.storage.base import Store, WriteLock
from raycap.storage.parts import part_key

_WRITE_THREADS = 4
_MAX_UNWRITTEN = 16


class _OpenPart:
    """A part with unanswered rows."""

    def __init__(self, num_rows: int, is_partial: bool, num_prompts: int) -> None:
        self.num_rows = num_rows
        self._num_prompts = num_prompts
        self.is_partial = is_partial
        self.begun_s = time.monotonic()
        self.tables: list[pa.Table] = []
        self._seen = np.zeros(num_rows, bool)  # by row and prompt
        self._num_seen = 0

    def add(self, table: pa.Table) -> int:
        """Add rows that have not arrived before, and return their number."""
        rows = table[schema.ROW].to_numpy()
        if self._num_prompts > 1:
            rows = rows * self._num_prompts + table[schema.PROMPT].to_numpy()
        missing = rows.max(initial=-1) + 1 - len(self._seen)
        if missing > 0:  # a partial part: rows to repeat have any number
            self._seen = np.pad(self._seen, (0, missing))
        fresh = ~self._seen[rows]
        self._seen[rows] = True
        num_seen = int(np.count_nonzero(self._seen))
        if num_seen - self._num_seen != np.count_nonzero(fresh):  # a row twice in this table
            again = np.ones(len(rows), bool)
            again[np.unique(rows, return_index=True)[1]] = False
            fresh &= ~again
        added = table if fresh.all() else table.filter(pa.array(fresh))
        self._num_seen = num_seen
        self.tables.append(added)
        return len(added)

    @property
    def is_whole(self) -> bool:
        """Whether all rows are answered."""
        return self._num_seen == self.num_rows


class Committer:
    """Writes parts in threads. Use as a context manager: it waits for the last write."""

    def __init__(
        self,
        store: Store,
        lock: WriteLock,
        versions: PartVersions,
        on_commit: Callable[[int, CaptionsFooter], None],
        cascade: Cascade | None = None,
        columns: CaptionColumns | AnswerColumns | None = None,
    ) -> None:
        """Prepare to write.

        Args:
            store: the locked output, whose writes fail once another writer has taken over.
            lock: its lock.
            versions: the run, and the revisions of its manifest parts.
            on_commit: called with the number and footer of each part that is written.
            cascade: the run's cascade.
            columns: those of the run; None for those of a run with one prompt.
        """
        self._store = store
        self._lock = lock
        self._versions = versions
        self._on_commit = on_commit
        self._cascade = cascade
        self._columns = columns or CaptionColumns()
        self._open: dict[int, _OpenPart] = {}
        self._done: set[int] = set()
        self._pool = ThreadPoolExecutor(_WRITE_THREADS, thread_name_prefix="raycap-commit")
        self._writing: set[Future[tuple[int, CaptionsFooter]]] = set()

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def add(self, table: pa.Table) -> pa.Table:
        """Add ANSWERED rows; return those that have not arrived before, for the progress.

        Raises:
            StorageError: an earlier part could not be written.
            RunConflict: another writer has taken over the output.
        """
        self._lock.check()
        fresh = []
        parts = table[schema.PART].to_numpy()
        for number in np.unique(parts).tolist():
            rows = table if len(table) == 0 else table.filter(pa.array(parts == number))
            if number not in self._done:
                fresh.append(self._add_to_part(number, rows))
        self._collect(block=len(self._writing) >= _MAX_UNWRITTEN)
        return pa.concat_tables(fresh) if fresh else table.slice(0, 0)

    def finish(self) -> None:
        """Wait for all writes, and check that every part is complete.

        Raises:
            RunStopped: the stream ended before all rows of a part had arrived.
        """
        while self._writing:
            self._collect(block=True)
        if self._open:
            raise RunStopped(
                f"the stream ended with {len(self._open)} unfinished parts; run the same command "
                "to continue"
            )

    def drain(self) -> None:
        """After a stop, wait for writes in progress and count those that succeed.

        Unfinished parts are dropped.
        """
        written, self._writing = wait(self._writing).done, set()
        for future in written:
            if future.exception() is None:
                self._on_commit(*future.result())

    def _add_to_part(self, number: int, rows: pa.Table) -> pa.Table:
        if number not in self._open:
            first = rows.slice(0, 1).select([schema.NUM_ROWS, schema.PARTIAL]).to_pylist()[0]
            num_prompts = self._columns.num_prompts
            is_partial = first[schema.PARTIAL]
            self._open[number] = _OpenPart(first[schema.NUM_ROWS], is_partial, num_prompts)
        part = self._open[number]
        num_added = part.add(rows)
        if part.is_whole:
            del self._open[number]
            self._done.add(number)
            self._writing.add(self._pool.submit(self._write, number, part))
        return rows if num_added == len(rows) else part.tables[-1]

    def _collect(self, *, block: bool) -> None:
        timeout = None if block else 0
        done, self._writing = wait(self._writing, timeout, return_when=FIRST_COMPLETED)
        for future in done:
            self._on_commit(*future.result())
        telemetry.note_uncommitted(len(self._open) + len(self._writing))

    def _write(self, number: int, part: _OpenPart) -> tuple[int, CaptionsFooter]:
        answered = pa.concat_tables(part.tables)
        num_bytes = _bytes_read(answered)
        old = before = None
        if part.is_partial:
            old, before = read_captions_part(self._store, number)
            num_bytes = max(num_bytes, before.num_bytes)
        kept = self._cascade.kept(answered) if self._cascade else answered
        rows = self._columns.rows(kept, old)
        if old is not None and before is not None:
            rows = with_own_answers(rows, old, before, self._columns.digests)
        data, footer = encode_captions(
            rows,
            num_bytes,
            self._versions.revisions.get(number, 0),
            now(),
            self._cascade.counts(rows, answered) if self._cascade else None,
            run=self._versions.run,
            prompts={**_kept_prompts(rows, before), **self._columns.digests},
            text=self._versions.text,
        )
        self._store.write(part_key(CAPTIONS, number), data)
        telemetry.note_commit(time.monotonic() - part.begun_s)
        return number, footer


def _kept_prompts(rows: pa.Table, before: CaptionsFooter | None) -> dict[str, str]:
    """Return the digests of prompts that the run no longer has, if all rows keep their answers."""
    return {
        name: digest
        for name, digest in ({} if before is None else before.prompts).items()
        if name in rows.column_names and not rows[name].null_count
    }


def _bytes_read(answered: pa.Table) -> int:
    """Return the bytes read for images, each of which may have several answers."""
    images = answered.filter(answered[schema.IS_FIRST])
    return int(pc.sum(images[schema.NUM_BYTES]).as_py() or 0)
