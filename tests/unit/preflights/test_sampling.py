"""A sample of a listing: uniform, reproducible, in bounded memory."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.preflights.run import Reservoir


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
