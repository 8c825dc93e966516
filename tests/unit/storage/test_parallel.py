"""Threads that keep order, bound what waits, and end."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.storage.parallel import ordered_chain, ordered_map


def wait_for_threads(number: int) -> None:
    deadline = time.monotonic() + 5
    while threading.active_count() > number and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= number


def test_results_come_in_order_though_they_are_ready_out_of_order() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.05 if item % 4 == 0 else 0)
        return item * 2

    assert list(ordered_map(slow_first, range(20), 4)) == [item * 2 for item in range(20)]


def test_no_more_items_are_taken_than_twice_the_threads() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), 3)
    assert taken == []
    next(results)
    assert len(taken) == 7
    next(results)
    assert len(taken) == 8


def test_an_error_is_raised_at_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()

    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = ordered_map(fail_at_three, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    wait_for_threads(before)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(), max_size=12), max_size=8), st.integers(1, 5))
def test_streams_are_chained_whole_and_in_order(streams: list[list[int]], threads: int) -> None:
    chained = list(ordered_chain(streams, threads, depth=2))
    assert chained == [item for stream in streams for item in stream]


def test_streams_are_read_ahead_side_by_side_but_not_far() -> None:
    taken = [0] * 5

    def stream(number: int) -> Iterator[int]:
        for item in range(100):
            taken[number] += 1
            yield item

    before = threading.active_count()
    chained = ordered_chain((stream(number) for number in range(5)), 3, depth=4)
    assert next(chained) == 0
    deadline = time.monotonic() + 5
    while min(taken[:3]) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert max(taken[:3]) <= 7  # four wait, one is being put, one was yielded
    assert taken[3:] == [0, 0]
    chained.close()  # type: ignore[attr-defined]  # a generator
    wait_for_threads(before)


def test_a_stream_that_breaks_raises_at_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 10
        raise OSError("broken")

    before = threading.active_count()
    chained = ordered_chain([[1, 2], broken(), [3]], 3)
    assert [next(chained) for _ in range(3)] == [1, 2, 10]
    with pytest.raises(OSError, match="broken"):
        next(chained)
    wait_for_threads(before)


def test_a_map_may_end_in_one_of_its_own_threads() -> None:
    """As when the garbage collector runs there."""
    before = threading.active_count()
    ended: Future[None] = Future()
    is_asked = threading.Event()

    def end_at_one(item: int) -> int:
        if item == 1:
            is_asked.wait(5)
            _end(results, ended)
        return item

    results = ordered_map(end_at_one, range(100), 2)
    assert next(results) == 0
    is_asked.set()
    assert ended.result(timeout=5) is None
    wait_for_threads(before)


def test_a_chain_may_end_in_one_of_its_own_threads() -> None:
    before = threading.active_count()
    ended: Future[None] = Future()
    is_asked = threading.Event()

    def stream() -> Iterator[int]:
        yield 0
        is_asked.wait(5)
        _end(chained, ended)
        yield from range(100)

    chained = ordered_chain([stream(), range(100)], 2, depth=1)
    assert next(chained) == 0
    is_asked.set()
    assert ended.result(timeout=5) is None
    wait_for_threads(before)


def _end(items: Iterator[int], ended: "Future[None]") -> None:
    try:
        ended.set_result(items.close())  # type: ignore[attr-defined]  # a generator
    except BaseException as error:  # noqa: BLE001  raised again by the test
        ended.set_exception(error)
