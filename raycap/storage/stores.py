"""Opening a store or a file by its address, and reading images from any address."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.storage.address import Address
from raycap.storage.base import Store, retrying
from raycap.storage.foreign import ForeignStore, foreign_version, open_filesystem, read_foreign
from raycap.storage.local import LocalStore, file_version, read_file, read_file_range
from raycap.storage.s3 import S3Store, get_object, get_range, get_version, make_client
from raycap.storage.web import WebReader

T = TypeVar("T")


def open_store(uri: str | Address, config: StorageConfig) -> Store:
    """Open the folder or bucket prefix at an address. Nothing is read or created yet.

    Raises:
        ConfigError: the address is not a store's, or a package is missing for it.
    """
    address = Address.parse(uri) if isinstance(uri, str) else uri
    if address.is_local:
        return LocalStore(Path(address.local_path))
    if address.holds_password:
        raise ConfigError(
            f"{address.shown}: an address takes no password (it was left out here); give the "
            "credentials in the way of that store, by its environment or files",
            uri=address.shown,
        )
    if address.is_web:
        raise ConfigError(
            f"{address.shown}: a web address cannot be listed or written; give a list file of "
            "addresses as source, and a folder or bucket as output",
            uri=address.shown,
        )
    return S3Store(address, config) if address.is_s3 else ForeignStore(address, config)


def open_file(destination: str, config: StorageConfig, *, example: str) -> tuple[Store, str]:
    """Open the store of a file to write; return it and the file's key there.

    Args:
        destination: the file's address.
        config: how stores are reached.
        example: the name of such a file, for the message.

    Raises:
        ConfigError: the address names a folder, or no file.
    """
    address = Address.parse(destination)
    path = address.local_path if address.is_local else destination
    folder, _, name = path.rpartition("/")
    is_folder = destination.endswith("/") or (address.is_local and os.path.isdir(path))
    if is_folder or not (address.is_local or folder.partition("://")[2]):
        raise ConfigError(
            f"{destination}: names no file; give one, such as {destination.rstrip('/')}/{example}",
            uri=destination,
        )
    return open_store(folder or "/", config), name


def _made_once(make: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function that calls `make` once per scheme, whichever thread asks first."""
    made: dict[str, T] = {}
    lock = Lock()

    def get(scheme: str) -> T:
        with lock:
            if scheme not in made:
                made[scheme] = make(scheme)
            return made[scheme]

    return get


class ImageReader:
    """A reader of image bytes at any address; safe to use from many threads.

    Clients are made at first use and kept, so that connections are reused.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._retrying = retrying(config)
        self._s3 = _made_once(lambda _: make_client(config))
        self._web = _made_once(lambda _: WebReader(config))
        self._foreign = _made_once(open_filesystem)

    def read(self, uri: str, max_bytes: int) -> bytes:
        """Read at most `max_bytes + 1` bytes of an image file: one more shows that it is too large.

        Raises:
            ObjectNotFound: there is no such file.
            TransientError: it could not be read, even after the configured retries.
            StorageError: no image of that store can be read: no access, or no such bucket.
        """
        address = Address.parse(uri)
        scheme = address.scheme
        if address.is_local:
            return read_file(address.path, max_bytes)
        if address.is_s3:
            where = address.bucket_and_key
            return get_object(self._s3(scheme), self._retrying, where, max_bytes=max_bytes)
        if address.is_web:
            return self._web(scheme).read(uri, max_bytes)
        files: Any = self._foreign(scheme)
        data: bytes = self._retrying(read_foreign, files, uri, 0, max_bytes + 1)
        return data

    def read_range(self, uri: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read a part of a file, such as a member of a tar; raises as `read` does.

        Returns fewer bytes, or none, where the file ends.
        """
        if num_bytes <= 0:
            return b""
        address, end = Address.parse(uri), offset_bytes + num_bytes
        scheme = address.scheme
        if address.is_local:
            return read_file_range(address.path, offset_bytes, num_bytes)
        if address.is_s3:
            span = f"{offset_bytes}-{end - 1}"
            return get_range(self._s3(scheme), self._retrying, address.bucket_and_key, span)
        if address.is_web:
            return self._web(scheme).read_range(uri, offset_bytes, num_bytes)
        files: Any = self._foreign(scheme)
        data: bytes = self._retrying(read_foreign, files, uri, offset_bytes, end)
        return data

    def version(self, uri: str) -> str | None:
        """Return the version of a file as a listing has it; None where the store tells none.

        Raises as `read` does.
        """
        address = Address.parse(uri)
        scheme = address.scheme
        if address.is_local:
            return file_version(address.path)
        if address.is_s3:
            where = address.bucket_and_key
            return get_version(self._s3(scheme), self._retrying, where)
        if address.is_web:
            return None
        version: str | None = self._retrying(foreign_version, self._foreign(scheme), uri)
        return version
