"""The interface of a store, and the retry policy of all stores."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from raycap.config import StorageConfig
from raycap.errors import ErrorCode, TransientError
from raycap.schema import ETAG, SIZE_BYTES

KEY = "key"
LISTING = pa.schema(
    [
        pa.field(KEY, pa.string(), nullable=False),
        pa.field(SIZE_BYTES, pa.int64()),
        pa.field(ETAG, pa.string()),
    ]
)
"""Listed objects; `key` is relative to the store. Sorted by `key` in UTF-8 byte order."""


@runtime_checkable
class WriteLock(Protocol):
    """A held lock: its holder is the only writer of an output."""

    def check(self) -> None:
        """Raise RunConflict if another writer has taken over, as far as is known here."""


class HeldLock(WriteLock, Protocol):
    """A lock held by this process, with the store that it opens for writing."""

    @property
    def store(self) -> "Store":
        """The locked store: its writes fail once another writer has taken over."""

    @property
    def token(self) -> str:
        """What the lock file names its holder by; see `Store.witnessed`."""

    def ensure(self) -> None:
        """Raise RunConflict if another writer may have taken over; may have to ask the store."""


@runtime_checkable
class Store(Protocol):
    """A folder or bucket prefix. Keys are relative, with `/` between their parts.

    Every method raises StorageError if the store refuses, or stays unreachable after the configured
    retries, and ObjectNotFound if there is no object at the key.
    """

    @property
    def uri(self) -> str:
        """Its address, without a trailing slash."""

    def address(self, key: str) -> str:
        """Return the full address of a key, as `ImageReader` takes it."""

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """List all objects under a prefix as LISTING tables, sorted, in bounded memory."""

    def exists(self, key: str) -> bool:
        """Whether there is an object at a key."""

    def read(self, key: str) -> bytes:
        """Read a whole object."""

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of an object."""

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of an object from an offset on; fewer, or none, where it ends."""

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object; a reader sees the old content or the new, never a mixture."""

    def upload(self, key: str, file: Path) -> None:
        """Write or replace an object, as `write` does, from a local file of any size.

        The file may be moved.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists at the key; return whether it was written."""

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""

    def delete_all(self, prefix: str) -> None:
        """Delete every object under a prefix that ends with `/`."""

    def lock(self, key: str) -> AbstractContextManager[HeldLock]:
        """Hold the output for writing. Raises RunConflict while another writer holds it.

        Only the store of the held lock is fenced: use that for all writing.
        """

    def witnessed(self, key: str, token: str) -> "Store":
        """Return the store for a worker of the lock's holder: fenced as the holder's own.

        Args:
            key: of the lock.
            token: of the held lock.
        """

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left; only the holder of the lock may."""


MAX_RETRY_AFTER_S = 120.0
"""If a server asks to wait longer (`Retry-After`), the request is not repeated in this run."""

_backoff = wait_random_exponential(multiplier=0.2, max=20)


def retrying(config: StorageConfig, limit_s: float | None = None) -> Retrying:
    """Build the retry policy: TransientError is retried after random waits that grow.

    If the server says how long to wait, it is that long at least. Full jitter, as in Brooker 2015,
    "Exponential Backoff And Jitter" (AWS Architecture Blog).

    Args:
        config: How often.
        limit_s: No retry begins after this many seconds; None: no limit.
    """
    stop: stop_base = stop_after_attempt(config.num_retries + 1)
    return Retrying(
        stop=stop if limit_s is None else stop | stop_before_delay(limit_s),
        wait=_wait_s,
        retry=retry_if_exception(_is_retried),
        reraise=True,
    )


def _is_retried(error: BaseException) -> bool:
    wait_s = error.retry_after_s if isinstance(error, TransientError) else None
    return wait_s is not None and wait_s <= MAX_RETRY_AFTER_S


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, TransientError) else None
    return max(_backoff(state), asked_s or 0.0)


def retry_after_s(header: str | None) -> float:
    """Return the seconds that a `Retry-After` header asks for, as a number or a date; else 0."""
    if not header:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def check_whole(num_bytes: int, size_bytes: int | None, max_bytes: int, shown: str) -> None:
    """Raise TransientError if fewer bytes have arrived than the listing promised.

    A proxy or a store may cut a body short and announce the shorter length. An image that has been
    replaced by a smaller one since it was listed is read again as well, when it is listed again.
    """
    if size_bytes is not None and num_bytes < min(size_bytes, max_bytes + 1):
        raise TransientError(
            ErrorCode.NETWORK, f"{shown}: {num_bytes:,} of {size_bytes:,} bytes arrived"
        )
