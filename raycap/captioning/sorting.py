"""Sorting of a list that may be larger than memory, and removal of duplicates."""

import heapq
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raycap.schema import IMAGE_ID, MANIFEST, URI

_RUN_ROWS = 1_000_000
_RUN_BYTES = 512_000_000  # signed addresses are long
_PAGE_ROWS = 65_536

OnRepeated = Callable[[str, str, str], None]
"""Called with an image id, the address of the row that is kept, and that of one that is not."""


def _ignore(image_id: str, kept: str, dropped: str) -> None:
    """Accept every repeated id."""


def sort_unique(
    tables: Iterable[pa.Table], run_rows: int = _RUN_ROWS, on_repeated: OnRepeated = _ignore
) -> Generator[pa.Table, None, None]:
    """Sort MANIFEST rows by image id and keep the first row of each id.

    More than `run_rows` rows are sorted in runs, which are written to disk and merged, so memory
    holds one run at most. Every row that is not kept is given to `on_repeated`, which may raise.
    """
    with tempfile.TemporaryDirectory(prefix="raycap-sort-") as folder:
        files: list[Path] = []
        last: pa.Table | None = None
        for run in _sorted_runs(tables, run_rows, on_repeated):
            if last is not None:
                files.append(_spill(last, Path(folder) / f"{len(files)}.arrow"))
            last = run
        if last is None:
            return
        if not files:
            yield from (last.slice(i, _PAGE_ROWS) for i in range(0, len(last), _PAGE_ROWS))
            return
        files.append(_spill(last, Path(folder) / f"{len(files)}.arrow"))
        del last
        yield from _merge(files, on_repeated)


def _sorted_runs(
    tables: Iterable[pa.Table], run_rows: int, on_repeated: OnRepeated
) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in tables:
        gathered.append(table)
        num_rows += len(table)
        num_bytes += table.nbytes
        if num_rows >= run_rows or num_bytes >= _RUN_BYTES:
            yield _sort(gathered, on_repeated)
            gathered, num_rows, num_bytes = [], 0, 0
    if gathered:
        yield _sort(gathered, on_repeated)


def _sort(tables: list[pa.Table], on_repeated: OnRepeated) -> pa.Table:
    table = pa.concat_tables(tables).combine_chunks()
    position = pa.array(range(len(table)), pa.int64())
    keyed = pa.table({"id": table[IMAGE_ID], "position": position})
    # The position breaks ties, so that the first of equal ids comes first.
    order = pc.sort_indices(keyed, sort_keys=[("id", "ascending"), ("position", "ascending")])
    table = table.take(order)
    ids = table[IMAGE_ID].combine_chunks()
    if len(ids) < 2:
        return table
    fresh = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1))
    fresh = pa.concat_arrays([pa.array([True]), fresh])
    kept = table.filter(fresh)
    # The number of each row among those that are kept, or of the one that is kept for it.
    numbers = pc.subtract(pc.cumulative_sum(pc.cast(fresh, pa.int64())), 1)
    dropped = pc.invert(fresh)
    for page in table.append_column("kept", numbers).filter(dropped).to_batches(_PAGE_ROWS):
        first = kept[URI].take(page["kept"])
        columns = (page[IMAGE_ID].to_pylist(), first.to_pylist(), page[URI].to_pylist())
        for image_id, uri, repeated in zip(*columns, strict=True):
            on_repeated(image_id, uri, repeated)
    return kept


def _spill(run: pa.Table, file: Path) -> Path:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, MANIFEST) as writer:
        writer.write_table(run.cast(MANIFEST), max_chunksize=_PAGE_ROWS)
    return file


def _merge(files: list[Path], on_repeated: OnRepeated) -> Iterator[pa.Table]:
    rows = heapq.merge(*(_rows(file) for file in files), key=lambda row: row[0])
    page: list[tuple[object, ...]] = []
    previous: tuple[str, str, object, object] | None = None
    for row in rows:
        if previous is not None and row[0] == previous[0]:
            on_repeated(row[0], previous[1], row[1])
            continue
        previous = row
        page.append(row)
        if len(page) == _PAGE_ROWS:
            yield _table(page)
            page = []
    if page:
        yield _table(page)


def _rows(file: Path) -> Iterator[tuple[str, str, object, object]]:
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            columns = [column.to_pylist() for column in reader.get_batch(index).columns]
            yield from zip(*columns, strict=True)


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)
