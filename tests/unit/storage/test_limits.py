"""A time limit for the whole of a piece of work."""

import time
from threading import Event

import pytest

from raycap.errors import ErrorCode, ObjectNotFound, TransientError
from raycap.storage.limits import Connections, within


def test_results_and_errors_pass_through() -> None:
    def fail(_: Connections) -> bytes:
        raise ObjectNotFound("x: no such object")

    assert within(5, lambda _: b"data", "x") == b"data"
    with pytest.raises(ObjectNotFound, match="x: no such object"):
        within(5, fail, "x")


def test_work_beyond_the_limit_is_left_and_its_connection_cut() -> None:
    cut, ended = Event(), Event()

    def drip(connections: Connections) -> bytes:
        connections.hold(cut.set)
        cut.wait(30)
        ended.set()
        return b""

    started = time.monotonic()
    with pytest.raises(TransientError) as caught:
        within(0.1, drip, "x")
    assert time.monotonic() - started < 5
    assert caught.value.code is ErrorCode.TIMEOUT
    assert caught.value.retry_after_s is None
    assert ended.wait(5)


def test_a_connection_made_after_the_limit_is_cut_too() -> None:
    connections, cut = Connections(), Event()
    connections.cut()
    connections.hold(cut.set)
    assert cut.is_set()
