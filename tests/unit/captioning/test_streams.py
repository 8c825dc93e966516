"""Work is drawn from a queue once, shares of captioners add up."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.captioning.streams import WorkQueue, count_streams, shares_of
from raycap.config import ActorRange, EngineConfig
from raycap.schema import PART, WORK


def work(numbers: list[int]) -> pa.Table:
    return pa.table([numbers, [False] * len(numbers)], schema=WORK)


def drawn(queue: WorkQueue, ticket: str) -> list[int]:
    found: list[int] = queue.draw(ticket)[PART].to_pylist()
    return found


def test_a_ticket_gives_the_next_parts_and_again_the_same_ones() -> None:
    queue = WorkQueue(work([3, 5, 7, 9, 11]), 2)
    assert drawn(queue, "a/0") == [3, 5]
    assert drawn(queue, "b/0") == [7, 9]
    assert drawn(queue, "a/0") == [3, 5]
    assert drawn(queue, "a/1") == [11]
    assert drawn(queue, "b/1") == []


def test_what_a_dead_stream_had_drawn_is_drawn_first() -> None:
    queue = WorkQueue(work([1, 2, 3, 4, 5, 6]), 1)
    for ticket in ("stream-1/0", "stream-10/0", "stream-1/1", "stream-2/0"):
        queue.draw(ticket)
    taken = queue.drawn_by("stream-1")
    assert taken[PART].to_pylist() == [1, 3]
    assert queue.drawn_by("stream-1")[PART].to_pylist() == []
    # A load task that outlives its stream takes nothing away from the others.
    assert drawn(queue, "stream-1/2") == []
    assert queue.give_back(taken.slice(1)) == 3
    assert [drawn(queue, f"stream-3/{n}") for n in range(4)] == [[3], [5], [6], []]


@given(least=st.integers(1, 40), more=st.integers(0, 40), num_streams=st.integers(1, 20))
def test_shares_add_up_and_none_is_empty(least: int, more: int, num_streams: int) -> None:
    actors = ActorRange(min=least, max=least + more)
    shares = shares_of(actors, num_streams)
    assert len(shares) == num_streams
    assert sum(share.max for share in shares) == max(actors.max, num_streams)
    assert sum(share.min for share in shares) == max(actors.min, num_streams)
    assert all(1 <= share.min <= share.max for share in shares)


@pytest.mark.parametrize(
    ("configured", "captioners", "expected"),
    [(None, 0, 1), (None, 1, 1), (None, 16, 1), (None, 17, 2), (3, 8, 3), (3, 2, 2)],
)
def test_a_stream_has_a_captioner_and_by_itself_sixteen_at_most(
    configured: int | None, captioners: int, expected: int
) -> None:
    assert count_streams(EngineConfig(num_streams=configured), captioners) == expected
