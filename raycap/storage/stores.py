"""Opening a store by its address, and reading one image from wherever it stands."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.storage.address import holds_password, redact, scheme_of, split_s3
from raycap.storage.base import Store, retrying
from raycap.storage.foreign import ForeignStore, open_filesystem, read_foreign
from raycap.storage.local import LocalStore, read_file, read_file_range
from raycap.storage.s3 import S3Store
from raycap.storage.s3_requests import get_object, get_range, make_client
from raycap.storage.web import WebReader

T = TypeVar("T")


def open_store(uri: str, config: StorageConfig) -> Store:
    """Open the folder or bucket prefix at an address. Nothing is read or made yet.

    Raises:
        ConfigError: the address is not one of a store, or its package is missing.
    """
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return LocalStore(Path(os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))))
    if holds_password(uri):
        raise ConfigError(
            f"{redact(uri)}: an address takes no password (it was left out here); give the "
            "credentials in the way of that store, by its environment or files"
        )
    if scheme in ("s3", "s3a"):
        bucket, prefix = split_s3(uri)
        if not bucket:
            raise ConfigError(f"{uri}: names no bucket; write s3://bucket/prefix")
        return S3Store(bucket, prefix, config)
    if scheme in ("http", "https"):
        raise ConfigError(
            f"{redact(uri)}: a web address cannot be listed or written; give a list file of "
            "addresses as source, and a folder or bucket as output"
        )
    return ForeignStore(scheme, uri.partition("://")[2], config)


def _made_once(make: Callable[[str], T]) -> Callable[[str], T]:
    """Keep what `make` gives; threads that ask for it in the same moment get the same one."""
    made: dict[str, T] = {}
    lock = Lock()

    def get(scheme: str) -> T:
        with lock:
            if scheme not in made:
                made[scheme] = make(scheme)
            return made[scheme]

    return get


class ImageReader:
    """Reads image bytes from any address; safe to use from many threads.

    Clients are made when first needed and kept, so that connections are reused.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._retrying = retrying(config)
        self._s3 = _made_once(lambda _: make_client(config))
        self._web = _made_once(lambda _: WebReader(config))
        self._foreign = _made_once(open_filesystem)

    def read(self, uri: str, max_bytes: int) -> bytes:
        """Read an image file, at most `max_bytes + 1` of it (so that a caller sees an excess).

        Raises:
            ObjectNotFound: nothing stands there.
            TransientError: it could not be read now, after the configured retries.
            StorageError: no image of that store can be read (no access, no bucket).
        """
        scheme = scheme_of(uri)
        if scheme in ("", "file"):
            return read_file(uri.removeprefix("file://"), max_bytes)
        if scheme in ("s3", "s3a"):
            return get_object(self._s3(scheme), self._retrying, split_s3(uri), max_bytes=max_bytes)
        if scheme in ("http", "https"):
            return self._web(scheme).read(uri, max_bytes)
        files: Any = self._foreign(scheme)
        data: bytes = self._retrying(read_foreign, files, uri, 0, max_bytes + 1)
        return data

    def read_range(self, uri: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read what lies within another file, such as a member of a tar; raises as `read` does.

        Fewer bytes come, or none, where that file ends.
        """
        if num_bytes <= 0:
            return b""
        scheme = scheme_of(uri)
        end = offset_bytes + num_bytes
        if scheme in ("", "file"):
            return read_file_range(uri.removeprefix("file://"), offset_bytes, num_bytes)
        if scheme in ("s3", "s3a"):
            span = f"{offset_bytes}-{end - 1}"
            return get_range(self._s3(scheme), self._retrying, split_s3(uri), span)
        if scheme in ("http", "https"):
            return self._web(scheme).read_range(uri, offset_bytes, num_bytes)
        files: Any = self._foreign(scheme)
        data: bytes = self._retrying(read_foreign, files, uri, offset_bytes, end)
        return data
