"""Sorting of a list that may be larger than memory, and removal of duplicates."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raycap.schema import IMAGE_ID, MANIFEST

_RUN_ROWS = 1_000_000
_RUN_BYTES = 512_000_000  # signed addresses are long
_PAGE_ROWS = 65_536


def sort_unique(tables: Iterable[pa.Table], run_rows: int = _RUN_ROWS) -> Iterator[pa.Table]:
    """Sort MANIFEST rows by image id and keep the first row of each id.

    More than `run_rows` rows are sorted in runs, which are written to disk and merged, so memory
    holds one run at most.
    """
    with tempfile.TemporaryDirectory(prefix="raycap-sort-") as folder:
        files: list[Path] = []
        last: pa.Table | None = None
        for run in _sorted_runs(tables, run_rows):
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
        yield from _merge(files)


def _sorted_runs(tables: Iterable[pa.Table], run_rows: int) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in tables:
        gathered.append(table)
        num_rows += len(table)
        num_bytes += table.nbytes
        if num_rows >= run_rows or num_bytes >= _RUN_BYTES:
            yield _sort(gathered)
            gathered, num_rows, num_bytes = [], 0, 0
    if gathered:
        yield _sort(gathered)


def _sort(tables: list[pa.Table]) -> pa.Table:
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
    return table.filter(pa.concat_arrays([pa.array([True]), fresh]))


def _spill(run: pa.Table, file: Path) -> Path:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, MANIFEST) as writer:
        writer.write_table(run.cast(MANIFEST), max_chunksize=_PAGE_ROWS)
    return file


def _merge(files: list[Path]) -> Iterator[pa.Table]:
    rows = heapq.merge(*(_rows(file) for file in files), key=lambda row: row[0])
    page: list[tuple[object, ...]] = []
    previous = None
    for row in rows:
        if row[0] == previous:
            continue
        previous = row[0]
        page.append(row)
        if len(page) == _PAGE_ROWS:
            yield _table(page)
            page = []
    if page:
        yield _table(page)


def _rows(file: Path) -> Iterator[tuple[str, object, object, object]]:
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            columns = [column.to_pylist() for column in reader.get_batch(index).columns]
            yield from zip(*columns, strict=True)


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)
