"""Planning: merge a sorted listing into the existing manifest, in bounded memory.

The manifest consists of one or more *sorted runs* of consecutive parts: each planning appends new
images in key order, so a sorted run ends where the first id of a part does not follow the last id
of the part before. The listing is read in chunks; for the key range of a chunk every sorted run is
read as far as the chunk, and the two are joined. New images become new parts. A changed image (with
another ETag or context) gets these in its part, whose revision is incremented, so that only this
row is captioned again. If the source has moved, an unchanged image gets its new address in the same
way, but the revision stays. An interrupted planning is completed by the next one.

`plan.json` records how many parts and images there are. So a part that is deleted later is missed,
whichever it is, and a part that a late listing does not show is read all the same. A manifest part
that `plan.json` does not count, left by an interrupted planning or by a writer that was taken over,
is not part of the run: it is replaced or deleted.

Images that the source no longer has keep their rows. Their part notes them in its footer.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.context import has_changed
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    ManifestFooter,
    encode_manifest,
    manifest_footer,
    read_manifest_footer,
    read_part,
)
from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.results.captioning import SUMMARY, PlanRecord, read_plan_record, write_plan_record
from raycap.runs.records import now
from raycap.schema import CONTEXT, ETAG, IMAGE_ID, PART, ROW, SIZE_BYTES, URI
from raycap.schema import MANIFEST as MANIFEST_SCHEMA
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts, part_key

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class PartVersions:
    """What a captions part says of the manifest part that it belongs to."""

    run: str
    """Digest of the run's fingerprint."""
    revisions: dict[int, int]
    """Of parts in which images have changed; that of others is 0."""
    text: str = ""
    """Digest of the run's rules for the text."""


@dataclass(kw_only=True)
class CaptionPlan:
    """The parts of the manifest after planning."""

    parts: dict[int, ManifestFooter] = field(default_factory=dict)
    """Footer of every part, by number."""
    num_new: int = 0
    """Images that were not in the manifest before."""
    num_changed: int = 0
    """Images whose ETag or context has changed."""
    num_parts: int = field(default=0, compare=False)
    """One more than the highest number of a part."""
    run: str = field(default="", compare=False)
    """Digest of the run's fingerprint; empty if it was not recorded."""
    text: str = field(default="", compare=False)
    """Digest of the rules for the text of the run that captions it."""
    is_source_empty: bool = field(default=False, compare=False)
    """Whether the listing of the whole source gave no image; then none was taken for gone."""

    @property
    def versions(self) -> PartVersions:
        """The versions of its parts."""
        changed = {n: part.revision for n, part in self.parts.items() if part.revision}
        return PartVersions(run=self.run, revisions=changed, text=self.text)

    @property
    def num_images(self) -> int:
        """Total number of images."""
        return sum(part.num_rows for part in self.parts.values())

    @property
    def num_gone(self) -> int:
        """Images that were missing from the source when it was last listed."""
        return sum(len(part.gone) for part in self.parts.values())

    @property
    def num_bytes(self) -> int:
        """Total bytes of the images whose size the listing contained."""
        return sum(part.num_bytes for part in self.parts.values())


def read_plan(store: Store, num_threads: int) -> CaptionPlan:
    """Read the footers of the existing manifest.

    Raises:
        DatasetError: a part is missing or damaged.
    """
    record = read_plan_record(store)
    if record is None:  # older, or not planned to the end
        numbers = sorted(list_parts(store, MANIFEST))
        num_parts = max(numbers, default=-1) + 1
    else:
        absent = set(record.absent)
        numbers = [number for number in range(record.num_parts) if number not in absent]
        num_parts = record.num_parts
    footers = ordered_map(lambda n: read_manifest_footer(store, n), numbers, num_threads)
    return CaptionPlan(
        parts=dict(zip(numbers, footers, strict=True)),
        num_parts=num_parts,
        run="" if record is None else record.run,
    )


def record_plan(store: Store, plan: CaptionPlan) -> None:
    """Write `plan.json` if it does not say this already, and delete parts that it does not count.

    Args:
        store: the output.
        plan: the complete plan, with the digest of its run.
    """
    record = PlanRecord(
        run=plan.run,
        num_parts=plan.num_parts,
        num_images=plan.num_images,
        num_gone=plan.num_gone,
        absent=sorted(set(range(plan.num_parts)) - plan.parts.keys()),
    )
    before = read_plan_record(store)
    if before is None or replace(before, planned_at="") != record:
        write_plan_record(store, replace(record, planned_at=now()))
    for number in sorted(set(list_parts(store, MANIFEST)) - plan.parts.keys()):
        logger.warning("stray_part_deleted key=%s", part_key(MANIFEST, number))
        store.delete(part_key(MANIFEST, number))


def _check_whole(store: Store, plan: CaptionPlan) -> None:
    """Raise if a captioned part was deleted: its images would be planned and captioned again.

    An interrupted planning leaves gaps as well, but those are not captioned. Where a plan was
    recorded, `read_plan` has found out already.
    """
    if plan.run:
        return
    for number in sorted(set(range(max(plan.parts, default=0))) - plan.parts.keys()):
        with suppress(ObjectNotFound):
            store.size(part_key(CAPTIONS, number))
            missing = store.address(part_key(MANIFEST, number))
            raise DatasetError(
                f"{missing}: is missing, but its images are already captioned; restore the file, "
                "or start in a new output",
                uri=missing,
            )


def extend_plan(  # noqa: PLR0913  independent choices, by keyword
    store: Store,
    listing: Iterable[pa.Table],
    *,
    part_size: int,
    num_threads: int,
    limit: int | None = None,
    dry_run: bool = False,
    is_moved: bool = False,
    has_context: bool = False,
) -> CaptionPlan:
    """Merge a listing into the manifest and return the complete plan.

    Args:
        store: The output.
        listing: MANIFEST tables, sorted by image id, without duplicates.
        part_size: Images per new part.
        num_threads: Small files to read or write at the same time.
        limit: Use only the first images of the listing.
        dry_run: Write nothing, but count new parts.
        is_moved: The source has moved: also compare addresses, which takes reading them.
        has_context: The listing has a context: also compare that.

    Raises:
        DatasetError: a part is damaged, or was deleted after its images had been captioned.
    """
    plan = read_plan(store, num_threads)
    _check_whole(store, plan)
    numbers = list(sorted_runs(plan))
    threads_per_run = max(1, num_threads // max(1, len(numbers)))
    columns = [IMAGE_ID, ETAG, *[URI] * is_moved, *[CONTEXT] * has_context]
    runs = [SortedRun(store, run, threads_per_run, columns) for run in numbers]
    writer = _Writer(store, dry_run=dry_run)
    changes = _Changes(writer, plan, num_threads)
    fresh = _new_rows(_chunks(limited(listing, limit)), runs, changes, is_whole=limit is None)
    first = plan.num_parts
    # This thread encodes: every thread that encodes would keep its peak memory.
    for _ in ordered_map(writer.write, _encoded(_cut(fresh, part_size), first, plan), num_threads):
        pass
    changes.apply()
    return plan


class _Writer:
    """Writes manifest parts, and before the first deletes the summary, which no longer holds."""

    def __init__(self, store: Store, *, dry_run: bool) -> None:
        self.store = store
        self.dry_run = dry_run
        self._begun = False
        self._beginning = Lock()

    def write(self, part: tuple[int, bytes]) -> None:
        """Write a part; nothing in a dry run."""
        if self.dry_run:
            return
        with self._beginning:
            if not self._begun:
                self.store.delete(SUMMARY)
                self._begun = True
        self.store.write(part_key(MANIFEST, part[0]), part[1])


def _encoded(
    tables: Iterator[pa.Table], first: int, plan: CaptionPlan
) -> Iterator[tuple[int, bytes]]:
    """Number and encode new parts, and add them to the plan."""
    for number, table in enumerate(tables, start=first):
        footer = manifest_footer(table)
        plan.parts[number] = footer
        plan.num_parts = number + 1
        plan.num_new += footer.num_rows
        yield number, encode_manifest(table, footer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A row of a part that differs from the listed one."""

    row: int
    listed: dict[str, Any]
    """The listed values of its columns."""
    is_same: bool
    """Whether image and values are the same: only its address, or which fields it has, differ."""


class _Changes:
    """Collects the changed rows of each part, and rewrites a part once its last row is known.

    So only parts in the current key range are in memory, however many images have changed.
    """

    def __init__(self, writer: _Writer, plan: CaptionPlan, num_threads: int) -> None:
        self._writer = writer
        self._plan = plan
        self._num_threads = num_threads
        self._rows: defaultdict[int, list[_Change]] = defaultdict(list)
        self._gone: defaultdict[int, set[int]] = defaultdict(set)
        self._marked = {number for number, part in plan.parts.items() if part.gone}
        self.knows_gone = True
        """Whether the listing went far enough to tell which rows of the parts are gone."""

    def note(self, part: int, change: _Change) -> None:
        """Record a changed row."""
        self._rows[part].append(change)
        self._plan.num_changed += not change.is_same

    def note_gone(self, rows: pa.Table) -> None:
        """Record rows that are missing from the source."""
        for number, row in zip(rows[PART].to_pylist(), rows[ROW].to_pylist(), strict=True):
            self._gone[number].add(row)

    def note_end(self, *, is_empty: bool) -> None:
        """Record whether the whole source was listed and gave no image."""
        self._plan.is_source_empty = is_empty

    def apply(self, through: str | None = None) -> None:
        """Rewrite the changed parts that end at or before an id, or all of them."""
        parts = self._plan.parts
        touched = self._rows.keys() | self._gone.keys() | self._marked
        numbers = [n for n in sorted(touched) if through is None or parts[n].last <= through]
        changed = [found for found in map(self._take, numbers) if found is not None]
        if not self._writer.dry_run:
            parts.update(ordered_map(self._rewrite, changed, self._num_threads))

    def _take(self, number: int) -> tuple[int, list[_Change], set[int]] | None:
        """Take what is to be changed in a part; None where it is right as it is."""
        rows, gone = self._rows.pop(number, []), self._gone.pop(number, set())
        self._marked.discard(number)
        before = set(self._plan.parts[number].gone)
        if not self.knows_gone:
            gone = before
        return (number, rows, gone) if rows or gone != before else None

    def _rewrite(self, changed: tuple[int, list[_Change], set[int]]) -> tuple[int, ManifestFooter]:
        number, rows, gone = changed
        columns = read_part(self._writer.store, MANIFEST, number).to_pydict()
        for change in rows:
            for name, value in change.listed.items():
                columns[name][change.row] = value
        table = pa.table(columns, schema=MANIFEST_SCHEMA)
        is_changed = not all(change.is_same for change in rows)
        revision = self._plan.parts[number].revision + is_changed
        footer = manifest_footer(table, revision, gone)
        self._writer.write((number, encode_manifest(table, footer)))
        return number, footer


class SortedRun:
    """Reads consecutive sorted parts, up to a given id at a time."""

    def __init__(
        self,
        store: Store,
        numbers: list[int],
        num_threads: int,
        columns: Sequence[str] = (IMAGE_ID, ETAG),
    ) -> None:
        self._parts = ordered_map(lambda n: _positioned(store, n, columns), numbers, num_threads)
        self._rest: pa.Table | None = None

    def take_through(self, last: str) -> list[pa.Table]:
        """Return the next rows up to and including an id."""
        taken: list[pa.Table] = []
        while True:
            if self._rest is None:
                self._rest = next(self._parts, None)
                if self._rest is None:
                    return taken
            stop = pc.sum(pc.less_equal(self._rest[IMAGE_ID], last)).as_py()
            taken.append(self._rest.slice(0, stop))
            if stop < len(self._rest):
                self._rest = self._rest.slice(stop)
                return taken
            self._rest = None

    def rest(self) -> Iterator[pa.Table]:
        """Yield all further rows."""
        if self._rest is not None:
            yield self._rest
        yield from self._parts


def _positioned(store: Store, number: int, columns: Sequence[str]) -> pa.Table:
    table = read_part(store, MANIFEST, number, list(columns))
    return table.append_column(PART, pa.array([number] * len(table), pa.int64())).append_column(
        ROW, pa.array(range(len(table)), pa.int32())
    )


def sorted_runs(plan: CaptionPlan) -> Iterator[list[int]]:
    """Yield the part numbers of each sorted run of the manifest."""
    run: list[int] = []
    for number, footer in plan.parts.items():
        if run and footer.first <= plan.parts[run[-1]].last:
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _new_rows(
    chunks: Iterator[pa.Table], runs: list[SortedRun], changes: _Changes, *, is_whole: bool
) -> Iterator[pa.Table]:
    """Yield the rows that are in no sorted run, and record rows that have changed or are gone."""
    last: str | None = None
    for chunk in chunks:
        last = chunk[IMAGE_ID][-1].as_py()
        known = [table for run in runs for table in run.take_through(last)]
        if not known:
            yield chunk
            continue
        old = pa.concat_tables(known)
        index = pc.index_in(chunk[IMAGE_ID], value_set=old[IMAGE_ID].combine_chunks())
        _note_changes(chunk, old, index, changes)
        listed = pc.is_in(old[IMAGE_ID], value_set=chunk[IMAGE_ID].combine_chunks())
        changes.note_gone(old.filter(pc.invert(listed)))
        changes.apply(through=last)
        yield chunk.filter(pc.is_null(index))
    # Without any row, or with only the first ones, a listing does not tell what is gone.
    changes.knows_gone = is_whole and last is not None
    changes.note_end(is_empty=is_whole and last is None)
    if changes.knows_gone:
        for table in (table for run in runs for table in run.rest()):
            changes.note_gone(table)


def _note_changes(
    chunk: pa.Table, old: pa.Table, index: pa.ChunkedArray, changes: _Changes
) -> None:
    # A null on either side compares as null: without an ETag an image counts as unchanged.
    changed = pc.fill_null(pc.not_equal(chunk[ETAG], old[ETAG].take(index)), False)
    differs = changed
    if CONTEXT in old.column_names:
        other, has_other_values = _compare_contexts(chunk[CONTEXT], old[CONTEXT], index)
        changed, differs = pc.or_(changed, has_other_values), pc.or_(differs, other)
    if URI in old.column_names:
        moved = pc.fill_null(pc.not_equal(chunk[URI], old[URI].take(index)), False)
        differs = pc.or_(differs, moved)
    found = chunk.append_column("old", index).append_column("changed", changed).filter(differs)
    positions = old.select([PART, ROW]).take(found["old"])
    listed = found.select([URI, SIZE_BYTES, ETAG, CONTEXT])
    rows = zip(positions.to_pylist(), listed.to_pylist(), found["changed"].to_pylist(), strict=True)
    for position, row, is_changed in rows:
        change = _Change(row=position[ROW], listed=row, is_same=not is_changed)
        changes.note(position[PART], change)


def _compare_contexts(
    listed: pa.ChunkedArray, old: pa.ChunkedArray, index: pa.ChunkedArray
) -> tuple[pa.Array, pa.Array]:
    """Return of each listed row whether its context differs, and whether a value has changed.

    A context differs without another value if the run has prompts with other fields than before.
    """
    before = old.take(index)
    is_other = pc.not_equal(pc.fill_null(listed, ""), pc.fill_null(before, ""))
    other = pc.and_(pc.is_valid(index), is_other).to_numpy()
    pairs = zip(listed.filter(other).to_pylist(), before.filter(other).to_pylist(), strict=True)
    changed = other.copy()
    changed[other] = [has_changed(was, now) for now, was in pairs]
    return pa.array(other), pa.array(changed)


def limited(listing: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """Yield the first rows of a listing; all of them if the limit is None."""
    left = limit
    for table in listing:
        if left is None:
            yield table
            continue
        if left <= 0:
            return
        yield table.slice(0, left)
        left -= len(table)


def _chunks(listing: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Gather pages into chunks, and check that the listing is sorted."""
    last: str | None = None
    for chunk in _cut(listing, _CHUNK_ROWS):
        ids = chunk[IMAGE_ID].combine_chunks()
        ascending = pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py()
        if ascending is False or (last is not None and ids[0].as_py() <= last):
            raise StorageError(
                f"the store's listing is not sorted by key near {ids[0].as_py()!r}; write the "
                "addresses into a list file and give that as source"
            )
        last = ids[-1].as_py()
        yield chunk


def _cut(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Cut a stream of tables into tables of `num_rows`; the last one may be shorter."""
    gathered: list[pa.Table] = []
    count = 0
    for table in tables:
        gathered.append(table)
        count += len(table)
        if count < num_rows:
            continue
        whole = pa.concat_tables(gathered).combine_chunks()
        stop = count - count % num_rows
        yield from (whole.slice(start, num_rows) for start in range(0, stop, num_rows))
        gathered, count = [whole.slice(stop)], count - stop
    if count:
        yield pa.concat_tables(gathered).combine_chunks()
