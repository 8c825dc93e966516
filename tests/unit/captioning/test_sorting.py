"""Sorting in runs gives what sorting in memory does."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.captioning.sorting import sort_unique
from raycap.schema import MANIFEST

IDS = st.text("ab/-é😀\ufffd", max_size=3)


def manifest(rows: list[tuple[str, int]]) -> pa.Table:
    columns: dict[str, list[object]] = {
        "image_id": [name for name, _ in rows],
        "uri": [f"s3://b/{number}" for _, number in rows],
        "size_bytes": [number if number % 2 else None for _, number in rows],
        "etag": [None for _ in rows],
        "context": [None if number % 3 else f"c{number}" for _, number in rows],
    }
    return pa.table(columns, schema=MANIFEST)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(IDS, max_size=12), max_size=8), st.integers(1, 30))
def test_rows_come_sorted_and_the_first_of_each_id_stays(
    pages: list[list[str]], run_rows: int
) -> None:
    first: dict[str, int] = {}
    tables, number = [], 0
    for page in pages:
        tables.append(manifest([(name, number + index) for index, name in enumerate(page)]))
        for name in page:
            first.setdefault(name, number)
            number += 1
    found = pa.concat_tables([MANIFEST.empty_table(), *sort_unique(iter(tables), run_rows)])
    assert found.schema == MANIFEST
    wanted = manifest(sorted(first.items(), key=lambda item: item[0].encode()))
    assert found.to_pylist() == wanted.to_pylist()


def test_runs_wait_on_disk_and_go_when_they_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tables = [manifest([(f"{n * 37 % 100:03d}", n)]) for n in range(100)]
    found = sort_unique(tables, run_rows=10)
    next(found)
    assert len(list(tmp_path.rglob("*.arrow"))) == 10
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_long_rows_are_sorted_in_smaller_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("raycap.captioning.sorting._RUN_BYTES", 1000)
    found = sort_unique(manifest([(f"{n:0500d}", n)]) for n in range(9, -1, -1))
    table = next(found)
    assert table["uri"].to_pylist() == [f"s3://b/{n}" for n in range(10)]
    assert len(list(tmp_path.rglob("*.arrow"))) == 5


@pytest.mark.parametrize("run_rows", [1, 2, 100])
def test_every_row_that_is_not_kept_is_told_with_the_one_that_is(run_rows: int) -> None:
    told: list[tuple[str, str, str]] = []
    tables = [manifest([("b", 0)]), manifest([("a", 1), ("b", 2)]), manifest([("b", 3), ("c", 4)])]
    list(sort_unique(tables, run_rows, lambda *row: told.append(row)))
    assert sorted(told) == [("b", "s3://b/0", "s3://b/2"), ("b", "s3://b/0", "s3://b/3")]


def test_nothing_gives_nothing() -> None:
    assert list(sort_unique([])) == []
