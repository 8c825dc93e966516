"""The fence of an output in an object store: a writer that was taken over changes nothing.

A check before a write is not enough, as the process may be stopped between the two for any time.
So every write is conditional on the version of the object that it replaces, or on there being none:

1. The first attempt assumes what this writer last wrote there, or that there is nothing.
2. If the store refuses it, somebody else wrote the object. The writer reads the object's version,
   and then confirms at the store that it still holds the lock. If it does not, it stops. If it
   does, that version is older than its lock: it comes from a writer that was taken over, and is
   replaced, on condition that it is still that version.

So once the successor has written an object, the one before can no longer replace it. What it can
still do is to create an object that the successor has not written yet, which the successor then
replaces, or never writes: the plan of a run says how many parts there are (`captioning/plan.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar, runtime_checkable

import pyarrow as pa
from tenacity import Retrying

from raycap.config import StorageConfig
from raycap.errors import ObjectNotFound, StorageError
from raycap.storage.address import Address
from raycap.storage.base import HeldLock, Store, retrying
from raycap.storage.lock import VersionedStore, describe, heartbeat_lock, not_held

V = TypeVar("V")

_MAX_ATTEMPTS = 10


@runtime_checkable
class FenceableStore(Store, VersionedStore, Protocol):
    """A store whose writes can be made conditional."""

    def upload_if(self, key: str, file: Path, version: str | None) -> bool:
        """Upload a file under the condition of `put_if`; return whether it was done."""

    def version(self, key: str) -> str | None:
        """Return the version of an object; None if there is none."""


class Confirmable(Protocol):
    """The methods of a lock that the fence needs."""

    def check(self) -> None:
        """Raise RunConflict if another writer has taken over, as far as is known here."""

    def ensure(self) -> None:
        """Raise RunConflict if another writer may have taken over since the last answer."""

    def confirm(self) -> None:
        """Ask the store whether the lock is still held; raise RunConflict if it is not."""


class FencedStore:
    """A store whose writes fail once another writer has taken over its lock; reads are free."""

    def __init__(self, store: FenceableStore, lock: Confirmable) -> None:
        self._store = store
        self._lock = lock
        self._versions: dict[str, str] = {}  # of records that are written again and again

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object."""
        written = self._conditionally(
            key, lambda version: self._store.put_if(key, data, version), self._versions.get(key)
        )
        if "/" not in key:
            self._versions[key] = written

    def upload(self, key: str, file: Path) -> None:
        """Write or replace an object from a local file of any size."""
        self._versions.pop(key, None)
        self._conditionally(
            key, lambda version: self._store.upload_if(key, file, version) or None, None
        )

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists; return whether it was written."""
        self._lock.ensure()
        return self._store.put_if(key, data, None) is not None

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        # Not every store can do this under a condition.
        self._lock.confirm()
        self._versions.pop(key, None)
        self._store.delete(key)

    def delete_all(self, prefix: str) -> None:
        """Delete every object under a prefix that ends with `/`."""
        self._lock.confirm()
        self._versions.clear()
        self._store.delete_all(prefix)

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left."""
        self._lock.ensure()
        self._store.remove_leftovers(prefix)

    def _conditionally(
        self, key: str, attempt: Callable[[str | None], V | None], version: str | None
    ) -> V:
        self._lock.ensure()
        for _ in range(_MAX_ATTEMPTS):
            written = attempt(version)
            if written is not None:
                return written
            version = self._store.version(key)  # first: the lock must be younger than it
            self._lock.confirm()
        raise StorageError(
            f"{self.address(key)}: is written by somebody else again and again; let only one "
            "program write to the output",
            uri=self.address(key),
        )

    # The rest is the store's own.

    @property
    def uri(self) -> str:
        """Its address, without a trailing slash."""
        return self._store.uri

    def address(self, key: str) -> str:
        """Return the full address of a key."""
        return self._store.address(key)

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """List all objects under a prefix."""
        return self._store.list(prefix)

    def exists(self, key: str) -> bool:
        """Whether there is an object at a key."""
        return self._store.exists(key)

    def read(self, key: str) -> bytes:
        """Read a whole object."""
        return self._store.read(key)

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of an object."""
        return self._store.read_tail(key, num_bytes)

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of an object from an offset on."""
        return self._store.read_range(key, offset_bytes, num_bytes)

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""
        return self._store.size(key)

    def lock(self, key: str) -> AbstractContextManager[HeldLock]:
        """Hold the lock of the store."""
        return self._store.lock(key)

    def witnessed(self, key: str, token: str) -> Store:
        """Return the store for a worker of a lock's holder."""
        return self._store.witnessed(key, token)


class _Held:
    """A held heartbeat lock, with the store that it fences."""

    def __init__(self, store: FenceableStore, lock: Confirmable, token: str) -> None:
        self._lock = lock
        self._store = FencedStore(store, lock)
        self._token = token

    @property
    def store(self) -> FencedStore:
        """The store for its only writer."""
        return self._store

    @property
    def token(self) -> str:
        """What the lock object names its holder by."""
        return self._token

    def check(self) -> None:
        """Raise RunConflict if another writer has taken over, as far as is known here."""
        self._lock.check()

    def ensure(self) -> None:
        """Raise RunConflict if another writer may have taken over; may have to ask the store."""
        self._lock.ensure()


@contextmanager
def fenced_lock(store: FenceableStore, key: str) -> Iterator[HeldLock]:
    """Hold a lock object within the block; see `storage.lock`."""
    with heartbeat_lock(store, key) as lock:
        yield _Held(store, lock, lock.token)


class Witness:
    """The lock of another process, such as the driver of this worker, as its object tells."""

    def __init__(self, store: VersionedStore, key: str, token: str) -> None:
        self._store = store
        self._key = key
        self._token = token

    def check(self) -> None:
        """Know nothing without asking."""

    def ensure(self) -> None:
        """Ask the store."""
        self.confirm()

    def confirm(self) -> None:
        """Raise RunConflict unless the lock names that holder."""
        try:
            holder = describe(self._store.read_versioned(self._key)[0])
        except ObjectNotFound:
            holder = {}
        if holder.get("owner") != self._token:
            raise not_held(self._store.uri)


class LockObjectStore(ABC):
    """Base of stores without locks of their own: a small object is the lock, and fences writes."""

    def __init__(self, address: Address, config: StorageConfig) -> None:
        self._address = address
        self._config = config
        self._retrying = retrying(config)

    @property
    def policy(self) -> Retrying:
        """How requests are retried."""
        return self._retrying

    def impatient(self, timeout_s: float) -> Self:
        """Return the same prefix with that time limit per request, and without retries.

        fsspec has no time limit of its own.
        """
        least = min(timeout_s, self._config.timeout_s)
        config = self._config.model_copy(update={"timeout_s": least, "num_retries": 0})
        return type(self)(self._address, config)

    @abstractmethod
    def holds_any(self) -> bool:
        """Whether there is anything under the prefix, by one small request."""

    def exists(self: Store, key: str) -> bool:
        """Whether there is an object at a key.

        By a ranged read: a HEAD request does not say why it was refused, and fsspec's own `exists`
        takes any error for a no.
        """
        try:
            self.read_tail(key, 1)
        except ObjectNotFound:
            return False
        return True

    def lock(self: FenceableStore, key: str) -> AbstractContextManager[HeldLock]:
        """Hold a small object that is rewritten every few seconds; see `storage.lock`."""
        return fenced_lock(self, key)

    def witnessed(self: FenceableStore, key: str, token: str) -> Store:
        """Return the prefix for a worker of the lock's holder."""
        return FencedStore(self, Witness(self, key, token))

    def remove_leftovers(self, prefix: str) -> None:  # noqa: B027  right for all of them
        """Do nothing: an interrupted upload leaves nothing on an object store."""
