"""The test of an output that `raycap doctor` makes: whether it can have a single writer."""

from pathlib import Path

from raycap.storage.base import Store
from raycap.storage.fence import FenceableStore
from raycap.storage.folders import check_locks
from raycap.storage.local import LocalStore
from raycap.storage.lock import check_conditional_writes


def check_single_writer(store: Store) -> None:
    """Make sure that a store can keep a second writer out; writes and deletes a small file.

    Raises:
        ConfigError: an object store ignores the condition of a conditional write.
        StorageError: a file system has no locks, or the store refuses to write.
    """
    if isinstance(store, LocalStore):
        check_locks(Path(store.uri))
    elif isinstance(store, FenceableStore):
        check_conditional_writes(store)
