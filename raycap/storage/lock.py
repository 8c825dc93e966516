"""A lock for stores without locks of their own: a heartbeat by conditional writes.

The lock is a small object that its holder rewrites every few seconds. A holder is alive if the
object changes while it is watched; clocks are never compared. Every write names the version that it
replaces: of two writers that take over a dead holder's lock one loses, and a holder whose lock was
taken over notices at its next heartbeat.

A heartbeat is given up long before its holder counts as dead, and a holder whose last heartbeat is
too old asks for a new one before it writes anything. Even so it may be stopped between this and the
write itself: `storage.fence` makes such a write fail.

A released lock is not deleted, but marked: a holder that was taken over cannot delete the lock of
its successor, and each takeover raises the generation of the one before.
"""

import json
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import Any, Protocol, runtime_checkable

from tenacity import Retrying

from raycap.errors import ConfigError, ObjectNotFound, RunConflict, StorageError
from raycap.parsing import parse_json

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two heartbeats."""
FRESH_S = 10.0
"""A holder writes nothing if its last heartbeat is older, before it has succeeded with another."""
BEAT_TIMEOUT_S = 5.0
"""A heartbeat without an answer for this long is given up."""
DEAD_AFTER_S = 30.0
"""A holder without a heartbeat for this long counts as dead."""


@runtime_checkable
class VersionedStore(Protocol):
    """The methods of a store that the lock needs."""

    @property
    def uri(self) -> str:
        """The address of the store."""

    @property
    def policy(self) -> Retrying:
        """How requests are retried."""

    def impatient(self, timeout_s: float) -> "VersionedStore":
        """Return the same store with that time limit per request, and without retries."""

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Read an object and its version."""

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Replace that version of an object, or create it if None.

        Returns:
            the new version; None if the object has another one.
        """

    def delete(self, key: str) -> None:
        """Delete an object."""


class HeartbeatLock:
    """A held lock, with its heartbeat in a thread of its own."""

    def __init__(
        self, store: VersionedStore, key: str, version: str, owner: dict[str, Any]
    ) -> None:
        self._uri = store.uri
        self._policy = store.policy
        self._store = store.impatient(BEAT_TIMEOUT_S)
        self._key = key
        self._version = version
        self._owner = owner
        self._num_beats = 0
        self._confirmed_s = -math.inf
        self._beating = Lock()
        self._lost = Event()
        self._released = Event()
        self._thread = Thread(target=self._beat_on, daemon=True, name="raycap-heartbeat")
        self._thread.start()

    @property
    def token(self) -> str:
        """What the lock names its holder by."""
        token: str = self._owner["owner"]
        return token

    def check(self) -> None:
        """Raise RunConflict if another writer has taken over, as far as is known here."""
        if self._lost.is_set():
            raise self._conflict()

    def ensure(self) -> None:
        """Raise RunConflict if another writer may have taken over; asks the store if need be."""
        self.check()
        if _clock_s() - self._confirmed_s > FRESH_S:
            self.confirm()

    def confirm(self) -> None:
        """Renew the lock now.

        Raises:
            RunConflict: another writer has taken over.
            StorageError: the store does not answer, so that it cannot be known.
        """
        self._policy(self._beat)
        self.check()

    def release(self) -> None:
        """Stop the heartbeat and mark the lock as free, unless another writer has taken it over."""
        self._released.set()
        self._thread.join()
        if self._lost.is_set():
            return
        free = {"generation": self._owner["generation"], "released": True}
        try:
            self._store.put_if(self._key, json.dumps(free).encode(), self._version)
        except StorageError as error:
            # What was written under the lock is kept; the next writer finds no heartbeat.
            logger.warning("lock_not_released error=%s", error)

    def _conflict(self) -> RunConflict:
        return RunConflict(
            f"{self._uri}: another run took over, as this one had no heartbeat for "
            f"{DEAD_AFTER_S:g} s; run the same command again once the other run has ended",
            uri=self._uri,
        )

    def _beat_on(self) -> None:
        while not self._released.wait(BEAT_S) and not self._lost.is_set():
            try:
                self._beat()
            except StorageError as error:
                # A heartbeat may be missed in an outage; the next shows whether somebody took over.
                logger.warning("heartbeat_failed error=%s", error)

    def _beat(self) -> None:
        with self._beating:
            if self._lost.is_set():
                return
            self._num_beats += 1
            begun_s = _clock_s()  # the answer may be late
            content = _content(self._owner, self._num_beats)
            version = self._store.put_if(self._key, content, self._version)
            if version is None:
                version = self._written_before()
            if version is None:
                self._lost.set()
                return
            self._version, self._confirmed_s = version, begun_s

    def _written_before(self) -> str | None:
        """Return the version of a refused heartbeat that was written, but whose answer was lost."""
        try:
            data, version = self._store.read_versioned(self._key)
        except ObjectNotFound:
            return None
        return version if describe(data).get("owner") == self._owner["owner"] else None


@contextmanager
def heartbeat_lock(store: VersionedStore, key: str) -> Iterator[HeartbeatLock]:
    """Hold a lock object within the block.

    Raises:
        RunConflict: another writer holds it and is alive.
        ConfigError: the store ignores the condition of a conditional write.
    """
    owner = {
        "owner": secrets.token_hex(8),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": process_table(),
    }
    version = _acquire(store, key, owner)
    _check_conditions(store, key, _content(owner, 0))
    lock = HeartbeatLock(store, key, version, owner)
    try:
        yield lock
    finally:
        lock.release()


def not_held(uri: str) -> RunConflict:
    """Return the error of a worker whose driver no longer holds the lock."""
    return RunConflict(
        f"{uri}: the run that this work is for no longer holds the output; run the same command "
        "again once no other run writes there",
        uri=uri,
    )


def check_conditional_writes(store: VersionedStore) -> None:
    """Make sure that a store refuses a write whose condition does not hold.

    Raises:
        ConfigError: it does not, so that two runs could write at once.
        StorageError: it lacks conditional writes, or refuses to write at all.
    """
    key, data = f"raycap-doctor-{secrets.token_hex(8)}.json", b'{"written by": "raycap"}\n'
    try:
        store.put_if(key, data, None)
        _check_conditions(store, key, data)
    finally:
        with suppress(ObjectNotFound):
            store.delete(key)


_NO_VERSION = '"00000000000000000000000000000000"'
"""An ETag that no object has."""


def _check_conditions(store: VersionedStore, key: str, data: bytes) -> None:
    """Try two writes that must be refused, to an object that exists."""
    for version, name in ((None, "If-None-Match"), (_NO_VERSION, "If-Match")):
        if store.put_if(key, data, version) is not None:
            raise ConfigError(
                f"{store.uri}: this store ignores the condition of a conditional write ({name}), "
                "so two runs could write at once; give an output in a store with conditional "
                "writes (AWS S3, MinIO, R2, Ceph since 2024), or a folder",
                uri=store.uri,
            )


def _acquire(store: VersionedStore, key: str, owner: dict[str, Any]) -> str:
    """Take the lock; `owner` receives its generation. Return its version."""
    owner["generation"] = 1
    while (version := store.put_if(key, _content(owner, 0), None)) is None:
        try:
            data, found = store.read_versioned(key)
        except ObjectNotFound:
            continue
        holder = describe(data)
        if holder.get("owner") == owner["owner"]:
            return found  # our own write, whose answer was lost
        if not holder.get("released") and not _died_here(holder):
            _watch(store, key, found)
        owner["generation"] = _generation(holder) + 1
        version = store.put_if(key, _content(owner, 0), found)
        if version is not None:
            return version
    return version


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
        holder = describe(data)
        if holder.get("released"):
            return
        if seen != version:
            raise RunConflict(
                f"{store.uri}: another run is writing here (host {holder.get('host')}, pid "
                f"{holder.get('pid')}); wait for it, stop it, or choose another output",
                uri=store.uri,
            )


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended: no need to wait.

    Two containers of one machine, which may share its host name, number their processes apart: a
    process number says something only where both see the same ones.
    """
    if holder.get("processes") is None or holder.get("processes") != process_table():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def process_table() -> str | None:
    """Identify the process numbers that this process sees; None where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return None


def _clock_s() -> float:
    """Return seconds that go on while the machine sleeps, where the system counts them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _generation(holder: dict[str, Any]) -> int:
    found = holder.get("generation")
    return found if isinstance(found, int) else 0


def describe(data: bytes) -> dict[str, Any]:
    """Read a lock's content; {} if it is damaged, as by an unknown writer."""
    try:
        content = parse_json(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _content(owner: dict[str, Any], beat: int) -> bytes:
    # The count makes every version differ, as an ETag is a digest of the content.
    return json.dumps({**owner, "beat": beat}).encode()
