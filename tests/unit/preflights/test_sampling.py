"""A preflight: its sample is uniform and reproducible, and where its results are written."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import StorageError
from raycap.preflights.run import Reservoir, own_store
from raycap.results.preflight import CONTACT_SHEET
from raycap.runs.records import LOCK
from raycap.storage.stores import open_store


def tables(num_rows: int, cuts: list[int]) -> Iterator[pa.Table]:
    """The numbers below `num_rows` as tables, cut at some places."""
    edges = [0, *sorted(cut % (num_rows + 1) for cut in cuts), num_rows]
    for start, stop in pairwise(edges):
        yield pa.table({"number": list(range(start, stop))}, schema=pa.schema({"number": "int64"}))


def draw(num_wanted: int, num_rows: int, cuts: list[int], seed: int) -> list[int]:
    reservoir = Reservoir(num_wanted, seed)
    passed = pa.concat_tables(reservoir.watch(tables(num_rows, cuts)))
    assert passed["number"].to_pylist() == list(range(num_rows))
    sample = reservoir.rows()
    assert sample is not None
    numbers: list[int] = sample["number"].to_pylist()
    return numbers


@settings(deadline=None)
@given(
    num_wanted=st.integers(1, 40),
    num_rows=st.integers(0, 200),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
    seed=st.integers(0, 5),
)
def test_the_rows_with_the_least_random_numbers_are_drawn_however_they_are_cut(
    num_wanted: int, num_rows: int, cuts: list[int], seed: int
) -> None:
    draws = np.random.default_rng(seed).random(num_rows)
    expected = np.argsort(draws)[:num_wanted].tolist()
    assert draw(num_wanted, num_rows, cuts, seed) == expected


def test_every_row_is_as_likely_as_any_other_also_to_come_first() -> None:
    drawn: Counter[int] = Counter()
    first: Counter[int] = Counter()
    for seed in range(2000):
        numbers = draw(5, 20, [7, 12], seed)
        drawn.update(numbers)
        first.update(numbers[:1])
    # Four standard deviations of 2,000 draws with probabilities 1/4 and 1/20.
    assert all(abs(drawn[number] - 500) < 78 for number in range(20))
    assert all(abs(first[number] - 100) < 39 for number in range(20))


def test_what_is_kept_does_not_grow_with_the_listing() -> None:
    reservoir = Reservoir(10, 0)
    names = pa.array(["x" * 1000] * 1000)
    before = pa.total_allocated_bytes()
    for _ in reservoir.watch(pa.table({"name": names}) for _ in range(200)):
        assert pa.total_allocated_bytes() - before < 3_000_000


@pytest.mark.parametrize("num_wanted", [1, 50])
def test_a_reservoir_that_saw_no_table_has_no_rows(num_wanted: int) -> None:
    assert Reservoir(num_wanted, 0).rows() is None


def test_no_result_is_written_through_a_link(tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (output, elsewhere):
        folder.mkdir()
    (output / "preflight").symlink_to(elsewhere)
    store = own_store(open_store(str(output), StorageConfig()))
    with pytest.raises(StorageError) as caught:
        store.write(CONTACT_SHEET, b"page")
    assert caught.value.uri == str(output / "preflight")
    assert not list(elsewhere.iterdir())


def test_results_are_written_into_an_output_that_a_run_holds(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"), StorageConfig())
    own_store(store).write(CONTACT_SHEET, b"before the run")  # creates the output
    with store.lock(LOCK):
        own_store(store).write(CONTACT_SHEET, b"page")
    assert store.read(CONTACT_SHEET) == b"page"
