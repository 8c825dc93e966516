"""A lock for stores without locks of their own: a heartbeat by conditional writes.

The lock is a small object that its holder rewrites every few seconds. A holder is alive if the
object changes while it is watched; clocks are never compared. Every write names the version that it
replaces: of two writers that take over a dead holder's lock one loses, and a holder whose lock was
taken over notices at its next heartbeat.
"""

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Protocol, runtime_checkable

from raycap.errors import ObjectNotFound, RunConflict, StorageError

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two heartbeats."""
DEAD_AFTER_S = 30.0
"""A holder without a heartbeat for this long counts as dead."""


@runtime_checkable
class VersionedStore(Protocol):
    """The methods of a store that the lock needs."""

    @property
    def uri(self) -> str:
        """The address of the store."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists; return whether it was written."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Read an object and its version."""

    def swap(self, key: str, data: bytes, etag: str) -> str | None:
        """Replace that version; return the new version, or None if the object has another one."""

    def delete(self, key: str) -> None:
        """Delete an object."""


class HeartbeatLock:
    """A held lock, with its heartbeat in a thread of its own."""

    def __init__(
        self, store: VersionedStore, key: str, version: str, owner: dict[str, Any]
    ) -> None:
        self._store = store
        self._key = key
        self._version = version
        self._owner = owner
        self._lost = Event()
        self._released = Event()
        self._thread = Thread(target=self._beat, daemon=True, name="raycap-heartbeat")
        self._thread.start()

    def check(self) -> None:
        """Raise RunConflict if another writer has taken over."""
        if self._lost.is_set():
            raise RunConflict(
                f"{self._store.uri}: another run took over, as this one had no heartbeat for "
                f"{DEAD_AFTER_S:g} s; run the same command again once the other run has ended",
                uri=self._store.uri,
            )

    def release(self) -> None:
        """Stop the heartbeat and delete the lock, unless another writer has taken it over."""
        self._released.set()
        self._thread.join()
        if self._lost.is_set():
            return
        try:
            self._store.delete(self._key)
        except StorageError as error:
            # What was written under the lock is kept; the next writer finds no heartbeat.
            logger.warning("lock_not_released error=%s", error)

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_S):
            beat += 1
            try:
                version = self._store.swap(self._key, _content(self._owner, beat), self._version)
                if version is None and not self._is_ours():
                    self._lost.set()
                    return
            except StorageError as error:
                # A heartbeat may be missed in an outage; `swap` shows whether somebody took over.
                logger.warning("heartbeat_failed error=%s", error)
                continue
            self._version = version or self._version

    def _is_ours(self) -> bool:
        """Whether a refused heartbeat had been written, and only its answer was lost."""
        try:
            data, version = self._store.read_versioned(self._key)
        except ObjectNotFound:
            return False
        if describe(data).get("owner") != self._owner["owner"]:
            return False
        self._version = version
        return True


@contextmanager
def heartbeat_lock(store: VersionedStore, key: str) -> Iterator[HeartbeatLock]:
    """Hold a lock object within the block.

    Raises:
        RunConflict: another writer holds it and is alive.
    """
    owner = {"owner": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid()}
    lock = HeartbeatLock(store, key, _acquire(store, key, owner), owner)
    try:
        yield lock
    finally:
        lock.release()


def _acquire(store: VersionedStore, key: str, owner: dict[str, Any]) -> str:
    while not store.create(key, _content(owner, 0)):
        try:
            data, version = store.read_versioned(key)
        except ObjectNotFound:
            continue
        if describe(data).get("owner") == owner["owner"]:
            return version  # our own write, whose answer was lost
        if not _died_here(describe(data)):
            _watch(store, key, version)
        taken = store.swap(key, _content(owner, 0), version)
        if taken is not None:
            return taken
    return store.read_versioned(key)[1]


def _watch(store: VersionedStore, key: str, version: str) -> None:
    """Return once the holder counts as dead; raise RunConflict at its next heartbeat."""
    logger.warning(
        "lock_found output=%s: waiting %g s for a heartbeat of its writer",
        store.uri,
        DEAD_AFTER_S,
    )
    deadline = time.monotonic() + DEAD_AFTER_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, DEAD_AFTER_S / 10))
        try:
            data, seen = store.read_versioned(key)
        except ObjectNotFound:
            return
        if seen != version:
            holder = describe(data)
            raise RunConflict(
                f"{store.uri}: another run is writing here (host {holder.get('host')}, pid "
                f"{holder.get('pid')}); wait for it, stop it, or choose another output",
                uri=store.uri,
            )


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended: no need to wait."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def describe(data: bytes) -> dict[str, Any]:
    """Read a lock's content; {} if it is damaged, as by an unknown writer."""
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _content(owner: dict[str, Any], beat: int) -> bytes:
    # The count makes every version differ, as an ETag is a digest of the content.
    return json.dumps({**owner, "beat": beat}).encode()
