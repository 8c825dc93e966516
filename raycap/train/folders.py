"""Folders of files in a store: written whole, and brought back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from raycap.storage.base import KEY, Store
from raycap.storage.local import LocalStore


def list_keys(store: Store, prefix: str) -> list[str]:
    """List all keys under a prefix, in order."""
    return [key for page in store.list(prefix) for key in page[KEY].to_pylist()]


@contextmanager
def replacing(store: Store, prefix: str) -> Iterator[Path]:
    """Give an empty folder; what is in it after the block takes the place of the prefix.

    Each file is replaced at once, the whole is not: a reader may meet new files beside old ones
    for as long as the upload takes.
    """
    with TemporaryDirectory(prefix="raycap-model-") as name:
        folder = Path(name)
        yield folder
        before = set(list_keys(store, prefix))
        keys = {
            f"{prefix}{path.relative_to(folder).as_posix()}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for key, path in keys.items():
            store.upload(key, path)
        for key in before - keys.keys():
            store.delete(key)


@contextmanager
def local_copy(store: Store, prefix: str) -> Iterator[Path]:
    """Give the files under a prefix as a folder of this machine, which may be the store's own."""
    if isinstance(store, LocalStore):
        yield Path(store.address(prefix.rstrip("/")))
        return
    with TemporaryDirectory(prefix="raycap-model-") as name:
        for key in list_keys(store, prefix):
            path = Path(name) / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(key))
        yield Path(name)
