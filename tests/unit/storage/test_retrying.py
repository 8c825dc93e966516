"""The retry policy: what is retried, and how long it waits when a server says so."""

import time
from email.utils import formatdate

import pytest

from raycap.config import StorageConfig
from raycap.errors import ErrorCode, ObjectForbidden, StorageError, TransientError
from raycap.storage.base import MAX_RETRY_AFTER_S, check_whole, retry_after_s, retrying

CONFIG = StorageConfig(num_retries=2)


def num_attempts(error: StorageError, limit_s: float | None = None) -> int:
    calls = []

    def attempt() -> None:
        calls.append(time.monotonic())
        raise error

    with pytest.raises(type(error)):
        retrying(CONFIG, limit_s)(attempt)
    return len(calls)


@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        (None, 0, 0), ("", 0, 0), ("15", 15, 15), (" 3 ", 3, 3), ("soon", 0, 0), ("-1", 0, 0),
    ],
)  # fmt: skip
def test_a_header_asks_for_seconds_or_names_a_date(
    header: str | None, least_s: float, most_s: float
) -> None:
    assert least_s <= retry_after_s(header) <= most_s


def test_a_date_is_a_moment() -> None:
    assert 30 <= retry_after_s(formatdate(time.time() + 60, usegmt=True)) <= 61
    assert retry_after_s(formatdate(time.time() - 60, usegmt=True)) == 0


def test_a_wait_that_a_server_asks_for_is_kept() -> None:
    started = time.monotonic()
    error = TransientError(ErrorCode.THROTTLED, "x", retry_after_s=0.5)
    assert num_attempts(error) == 3
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("asked_s", [None, MAX_RETRY_AFTER_S + 1])
def test_what_cannot_heal_in_time_is_not_retried(asked_s: float | None) -> None:
    assert num_attempts(TransientError(ErrorCode.EXPIRED, "x", retry_after_s=asked_s)) == 1
    assert num_attempts(ObjectForbidden("x")) == 1


def test_no_retry_begins_beyond_the_limit() -> None:
    assert num_attempts(TransientError(ErrorCode.THROTTLED, "x", retry_after_s=60), 1.0) == 1


def test_a_body_shorter_than_listed_is_transient() -> None:
    check_whole(10, 10, 100, "x")
    check_whole(10, None, 100, "x")
    check_whole(101, 10**9, 100, "x")  # no more is read of what is too large
    check_whole(12, 10, 100, "x")
    with pytest.raises(TransientError) as caught:
        check_whole(9, 10, 100, "x")
    assert caught.value.code is ErrorCode.NETWORK
