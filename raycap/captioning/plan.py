"""Planning: merge a sorted listing into the existing manifest, in bounded memory.

The manifest consists of one or more *sorted runs* of consecutive parts: each planning appends new
images in key order, so a sorted run ends where the first id of a part does not follow the last id
of the part before. The listing is read in chunks; for the key range of a chunk every sorted run is
read as far as the chunk, and the two are joined. New images become new parts. A changed image (with
another ETag) gets its new ETag in its part, whose revision is incremented, so that only this row is
captioned again. If the source has moved, an unchanged image gets its new address in the same way,
but the revision stays. An interrupted planning is completed by the next one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    ManifestFooter,
    encode_manifest,
    list_parts,
    manifest_footer,
    part_key,
    read_manifest_footer,
    read_part,
)
from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.schema import ETAG, IMAGE_ID, PART, ROW, SIZE_BYTES, URI
from raycap.schema import MANIFEST as MANIFEST_SCHEMA
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map

_CHUNK_ROWS = 8_192


@dataclass(kw_only=True)
class CaptionPlan:
    """The parts of the manifest after planning."""

    parts: dict[int, ManifestFooter] = field(default_factory=dict)
    """Footer of every part, by number."""
    num_new: int = 0
    """Images that were not in the manifest before."""
    num_changed: int = 0
    """Images whose ETag has changed."""

    @property
    def num_images(self) -> int:
        """Total number of images."""
        return sum(part.num_rows for part in self.parts.values())

    @property
    def num_bytes(self) -> int:
        """Total bytes of the images whose size the listing contained."""
        return sum(part.num_bytes for part in self.parts.values())


def read_plan(store: Store, num_threads: int) -> CaptionPlan:
    """Read the footers of the existing manifest."""
    numbers = sorted(list_parts(store, MANIFEST))
    footers = ordered_map(lambda n: read_manifest_footer(store, n), numbers, num_threads)
    return CaptionPlan(parts=dict(zip(numbers, footers, strict=True)))


def _check_whole(store: Store, plan: CaptionPlan) -> None:
    """Raise if a captioned part was deleted: its images would be planned and captioned again.

    An interrupted planning leaves gaps as well, but those are not captioned.
    """
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

    Raises:
        DatasetError: a part is damaged, or was deleted after its images had been captioned.
    """
    plan = read_plan(store, num_threads)
    _check_whole(store, plan)
    numbers = list(sorted_runs(plan))
    threads_per_run = max(1, num_threads // max(1, len(numbers)))
    columns = [IMAGE_ID, ETAG, *([URI] if is_moved else [])]
    runs = [SortedRun(store, run, threads_per_run, columns) for run in numbers]
    changes = _Changes(store, plan, num_threads, dry_run=dry_run)
    fresh = _new_rows(_chunks(limited(listing, limit)), runs, changes)
    first = max(plan.parts, default=-1) + 1

    def write(part: tuple[int, bytes]) -> None:
        if not dry_run:
            store.write(part_key(MANIFEST, part[0]), part[1])

    # This thread encodes: every thread that encodes would keep its peak memory.
    for _ in ordered_map(write, _encoded(_cut(fresh, part_size), first, plan), num_threads):
        pass
    changes.apply()
    return plan


def _encoded(
    tables: Iterator[pa.Table], first: int, plan: CaptionPlan
) -> Iterator[tuple[int, bytes]]:
    """Number and encode new parts, and add them to the plan."""
    for number, table in enumerate(tables, start=first):
        footer = manifest_footer(table)
        plan.parts[number] = footer
        plan.num_new += footer.num_rows
        yield number, encode_manifest(table, footer)


_Change = tuple[int, str, int | None, str, bool]  # row, uri, size, etag, only moved


class _Changes:
    """Collects the changed rows of each part, and rewrites a part once its last row is known.

    So only parts in the current key range are in memory, however many images have changed.
    """

    def __init__(self, store: Store, plan: CaptionPlan, num_threads: int, *, dry_run: bool) -> None:
        self._store = store
        self._plan = plan
        self._num_threads = num_threads
        self._dry_run = dry_run
        self._rows: defaultdict[int, list[_Change]] = defaultdict(list)

    def note(self, part: int, change: _Change) -> None:
        """Record a changed row."""
        self._rows[part].append(change)
        self._plan.num_changed += not change[-1]

    def apply(self, through: str | None = None) -> None:
        """Rewrite the changed parts that end at or before an id, or all of them."""
        parts = self._plan.parts
        numbers = [n for n in sorted(self._rows) if through is None or parts[n].last <= through]
        changed = [(number, self._rows.pop(number)) for number in numbers]
        if not self._dry_run:
            parts.update(ordered_map(self._rewrite, changed, self._num_threads))

    def _rewrite(self, changed: tuple[int, list[_Change]]) -> tuple[int, ManifestFooter]:
        number, rows = changed
        columns = read_part(self._store, MANIFEST, number).to_pydict()
        for row, uri, size, etag, _ in rows:
            columns[URI][row], columns[SIZE_BYTES][row], columns[ETAG][row] = uri, size, etag
        table = pa.table(columns, schema=MANIFEST_SCHEMA)
        is_changed = not all(only_moved for *_, only_moved in rows)
        footer = manifest_footer(table, self._plan.parts[number].revision + is_changed)
        self._store.write(part_key(MANIFEST, number), encode_manifest(table, footer))
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
    chunks: Iterator[pa.Table], runs: list[SortedRun], changes: _Changes
) -> Iterator[pa.Table]:
    """Yield the rows that are in no sorted run, and record rows whose ETag has changed."""
    for chunk in chunks:
        last = chunk[IMAGE_ID][-1].as_py()
        known = [table for run in runs for table in run.take_through(last)]
        if not known:
            yield chunk
            continue
        old = pa.concat_tables(known)
        index = pc.index_in(chunk[IMAGE_ID], value_set=old[IMAGE_ID].combine_chunks())
        _note_changes(chunk, old, index, changes)
        changes.apply(through=last)
        yield chunk.filter(pc.is_null(index))


def _note_changes(
    chunk: pa.Table, old: pa.Table, index: pa.ChunkedArray, changes: _Changes
) -> None:
    # A null on either side compares as null: without an ETag an image counts as unchanged.
    changed = pc.fill_null(pc.not_equal(chunk[ETAG], old[ETAG].take(index)), False)
    differs = changed
    if URI in old.column_names:
        moved = pc.fill_null(pc.not_equal(chunk[URI], old[URI].take(index)), False)
        differs = pc.or_(changed, moved)
    found = chunk.append_column("old", index).append_column("changed", changed).filter(differs)
    positions = old.select([PART, ROW]).take(found["old"])
    for position, row in zip(positions.to_pylist(), found.to_pylist(), strict=True):
        change = (position[ROW], row[URI], row[SIZE_BYTES], row[ETAG], not row["changed"])
        changes.note(position[PART], change)


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
