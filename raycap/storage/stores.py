"""Opening a store by its address, and reading one image from wherever it stands."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.storage.address import scheme_of, split_s3
from raycap.storage.base import Store, retrying
from raycap.storage.foreign import ForeignStore, open_filesystem, read_foreign
from raycap.storage.local import LocalStore, read_file
from raycap.storage.s3 import S3Store, get_object, make_client
from raycap.storage.web import WebReader


def open_store(uri: str, config: StorageConfig) -> Store:
    """Open the folder or bucket prefix at an address. Nothing is read or made yet.

    Raises:
        ConfigError: the address is not one of a store, or its package is missing.
    """
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return LocalStore(Path(os.path.abspath(Path(uri.removeprefix("file://")).expanduser())))
    if scheme in ("s3", "s3a"):
        bucket, prefix = split_s3(uri)
        if not bucket:
            raise ConfigError(f"{uri}: names no bucket; write s3://bucket/prefix")
        return S3Store(bucket, prefix, config)
    if scheme in ("http", "https"):
        raise ConfigError(
            f"{uri}: a web address cannot be listed or written; give a list file of addresses "
            "as source, and a folder or bucket as output"
        )
    return ForeignStore(scheme, uri.partition("://")[2])


class ImageReader:
    """Reads image bytes from any address; safe to use from many threads.

    Clients are made when first needed and kept, so that connections are reused.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._retrying = retrying(config)
        self._s3 = lru_cache(1)(lambda: make_client(config))
        self._web = lru_cache(1)(lambda: WebReader(config))
        self._foreign = lru_cache(None)(open_filesystem)

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
            return get_object(self._s3(), self._retrying, split_s3(uri), max_bytes=max_bytes)
        if scheme in ("http", "https"):
            return self._web().read(uri, max_bytes)
        files: Any = self._foreign(scheme)
        return read_foreign(files, uri, max_bytes)
