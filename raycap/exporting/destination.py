"""Where an export writes: folders and files of any store, and what exists there already."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import gettempdir
from typing import BinaryIO

from raycap.config import StorageConfig
from raycap.errors import ConfigError, StorageError
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.stores import open_store

NUM_SHOWN = 5
"""Names in a message; the others are counted."""


def open_folder(destination: str, config: StorageConfig) -> Store:
    """Open the folder that an export writes to. Raises ConfigError if it is a file."""
    store = open_store(destination, config)
    if isinstance(store, LocalStore) and os.path.isfile(store.uri):
        raise ConfigError(f"{store.uri}: is a file; give a folder", uri=store.uri)
    return store


def exists(store: Store, key: str) -> bool:
    """Whether there is anything at a key, be it a dangling link."""
    if isinstance(store, LocalStore):
        return os.path.lexists(store.address(key))
    return store.exists(key)


@contextmanager
def staged(store: Store, key: str) -> Iterator[BinaryIO]:
    """Open a temporary file that is moved to its key in the store once it is complete."""
    is_local = isinstance(store, LocalStore)
    folder = Path(store.address(key)).parent if is_local else Path(gettempdir())
    temporary = folder / f".{secrets.token_hex(8)}.raycap-tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Other users of this machine must not read captions that go to a bucket.
        mode = 0o666 if is_local else 0o600
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            try:
                yield file
                file.flush()
                store.upload(key, temporary)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}", uri=str(folder)) from error


def refuse(store: Store, standing: Iterator[str]) -> None:
    """Raise ConfigError if any of these files exist, before anything is written."""
    first = list(islice(standing, NUM_SHOWN))
    num_standing = len(first) + sum(1 for _ in standing)
    if num_standing:
        more = ", ..." if num_standing > len(first) else ""
        what = "1 file exists" if num_standing == 1 else f"{num_standing} files exist"
        raise ConfigError(
            f"{store.uri}: {what} already ({', '.join(first)}{more}); move them away, give another "
            "destination, or choose what becomes of them with --existing",
            uri=store.uri,
            setting="existing",
        )


def few(names: list[str]) -> str:
    """Return the first few names for a message."""
    return ", ".join(names[:NUM_SHOWN]) + (", ..." if len(names) > NUM_SHOWN else "")
