"""Opening a store or a file by its address, and reading images from any address."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from tenacity import Retrying

from raycap.config import StorageConfig
from raycap.errors import ConfigError, ObjectNotFound
from raycap.storage.address import Address, redact
from raycap.storage.base import Store, check_whole, retrying
from raycap.storage.foreign import (
    ForeignStore,
    foreign_version,
    open_filesystem,
    read_foreign,
    scheme_fault,
)
from raycap.storage.limits import Connections, within
from raycap.storage.local import LocalStore, file_version, read_file, read_file_range
from raycap.storage.members import member_of, member_version
from raycap.storage.web import WebFile, WebReader

if TYPE_CHECKING:
    from raycap.storage.s3 import S3Images

T = TypeVar("T")

_DIGEST_BYTES = 16


def open_store(uri: str | Address, config: StorageConfig) -> Store:
    """Open the folder or bucket prefix at an address. Nothing is read or created yet.

    Raises:
        ConfigError: the address is not a store's, or a package is missing for it.
    """
    address = Address.parse(uri) if isinstance(uri, str) else uri
    if address.is_local:
        return LocalStore(Path(address.local_path))
    if address.fault:
        raise ConfigError(f"{address.shown}: {address.fault}", uri=address.shown)
    if address.is_web:
        raise ConfigError(
            f"{address.shown}: a web address cannot be listed or written; give a list file of "
            "addresses as source, and a folder or bucket as output",
            uri=address.shown,
        )
    if address.is_s3:
        from raycap.storage.s3 import S3Store  # noqa: PLC0415  boto3 takes as long as pyarrow

        return S3Store(address, config)
    return ForeignStore(address, config)


def listed(store: Store, prefix: str = "") -> Iterator[pa.Table]:
    """List a source as `Store.list` does, but leave out folders that may not be read.

    A folder of one's own, such as an output, is listed completely or not at all.
    """
    if isinstance(store, LocalStore):
        return store.survey(Counter(), prefix=prefix)
    return store.list(prefix)


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
    if address.fault:
        raise ConfigError(f"{address.shown}: {address.fault}", uri=address.shown)
    path = address.local_path if address.is_local else destination
    folder, _, name = path.rpartition("/")
    is_folder = destination.endswith("/") or (address.is_local and os.path.isdir(path))
    if is_folder or not (address.is_local or folder.partition("://")[2]):
        raise ConfigError(
            f"{address.shown}: names no file; give one, such as "
            f"{address.shown.rstrip('/')}/{example}",
            uri=address.shown,
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


def _readable(uri: str) -> Address:
    """Parse an address. Raises ObjectNotFound if nothing can be read at it."""
    address = Address.parse(uri)
    is_foreign = not (address.is_local or address.is_web or address.is_s3)
    fault = address.fault or (scheme_fault(address.scheme) if is_foreign else None)
    if fault:
        raise ObjectNotFound(f"{address.shown}: {fault}", uri=address.shown)
    return address


def _in_either_form(where: tuple[str, str], read: Callable[[tuple[str, str]], bytes]) -> bytes:
    """Read an object of (bucket, key), if need be by the other form of the key's accents.

    Accented letters are one character or two, depending on the system that wrote them; they look
    the same.
    """
    try:
        return read(where)
    except ObjectNotFound:
        bucket, key = where
        forms = {unicodedata.normalize(form, key) for form in ("NFC", "NFD")} - {key}
        for form in sorted(forms):
            with suppress(ObjectNotFound):
                return read((bucket, form))
        raise


def digest_of(data: bytes) -> str:
    """Return the digest of an image file that a caption dataset records: 128 bits of BLAKE2b."""
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _s3_images(config: StorageConfig, retrying: Retrying) -> "S3Images":
    from raycap.storage.s3 import S3Images  # noqa: PLC0415  boto3 takes as long as pyarrow

    return S3Images(config, retrying)


class ImageReader:
    """A reader of image bytes at any address; safe to use from many threads.

    Clients are made at first use and kept, so that connections are reused.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._limit_s = config.image_timeout_s
        self._retrying = retrying(config, self._limit_s)
        self._s3 = _made_once(lambda _: _s3_images(config, self._retrying))
        self._web = _made_once(lambda _: WebReader(config))
        self._foreign = _made_once(open_filesystem)

    def read(self, uri: str, max_bytes: int, size_bytes: int | None = None) -> bytes:
        """Read at most `max_bytes + 1` bytes of an image file: one more shows that it is too large.

        Of a tar's member, read that span of the tar.

        Args:
            uri: Its address.
            max_bytes: Limit of its size.
            size_bytes: Its size as listed, to notice a file that is cut short; None if unknown.

        Raises:
            ObjectNotFound: there is no such file.
            ObjectForbidden: this file may not be read.
            TransientError: it could not be read, even after the configured retries, or in time.
            StorageError: no image of that store can be read: no credentials, or no such bucket.
        """
        if (member := member_of(uri)) is not None:
            num_bytes = min(member.size_bytes, max_bytes + 1)
            data = self.read_range(member.tar, member.offset_bytes, num_bytes)
            if len(data) < num_bytes:
                raise ObjectNotFound(f"{redact(uri)}: the tar ends before it", uri=redact(uri))
            return data
        address = _readable(uri)
        scheme = address.scheme
        if address.is_local:
            data = read_file(address.path, max_bytes)
            check_whole(len(data), size_bytes, max_bytes, address.path)
            return data
        if address.is_web:
            return self._web(scheme).read(uri, max_bytes)
        if address.is_s3:
            s3 = self._s3(scheme)
            return self._within_limit(
                address,
                lambda held: _in_either_form(
                    address.bucket_and_key,
                    lambda where: s3.read(where, max_bytes, size_bytes, held),
                ),
            )
        files: Any = self._foreign(scheme)

        def attempt() -> bytes:
            data = read_foreign(files, uri, 0, max_bytes + 1)
            check_whole(len(data), size_bytes, max_bytes, uri)
            return data

        return self._within_limit(address, lambda _: self._retrying(attempt))

    def read_range(self, uri: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read a part of a file, such as a member of a tar; raises as `read` does.

        Returns fewer bytes, or none, where the file ends.
        """
        if num_bytes <= 0:
            return b""
        address, end = _readable(uri), offset_bytes + num_bytes
        scheme = address.scheme
        if address.is_local:
            return read_file_range(address.path, offset_bytes, num_bytes)
        if address.is_web:
            return self._web(scheme).read_range(uri, offset_bytes, num_bytes)
        if address.is_s3:
            s3, span = self._s3(scheme), f"{offset_bytes}-{end - 1}"
            return self._within_limit(
                address,
                lambda held: _in_either_form(
                    address.bucket_and_key, lambda where: s3.read_range(where, span, held)
                ),
            )
        files: Any = self._foreign(scheme)
        return self._within_limit(
            address, lambda _: self._retrying(read_foreign, files, uri, offset_bytes, end)
        )

    def version(self, uri: str) -> str | None:
        """Return the version of a file as a listing has it; None where the store tells none.

        Raises as `read` does.
        """
        if (member := member_of(uri)) is not None:
            return member_version(self.tar_version(member.tar), member)
        address = Address.parse(uri)
        scheme = address.scheme
        if address.is_local:
            return file_version(address.path)
        if address.is_s3:
            return self._s3(scheme).version(address.bucket_and_key)
        if address.is_web:
            return None
        version: str | None = self._retrying(foreign_version, self._foreign(scheme), uri)
        return version

    def tar_version(self, uri: str) -> str | None:
        """Return the version of a tar; raises as `read` does. Web servers give one, too."""
        address = Address.parse(uri)
        if address.is_web:
            return self._web(address.scheme).describe(uri).version
        return self.version(uri)

    def describe_web(self, uri: str) -> WebFile:
        """Return what a server says of a file at a web address; raises as `read` does."""
        return self._web(Address.parse(uri).scheme).describe(uri)

    def is_version(self, uri: str, etag: str | None, data: bytes) -> bool | None:
        """Return whether a file that was just read is the listed one; None where nothing tells.

        Raises as `read` does.

        Args:
            uri: its address.
            etag: what the listing had: the store's ETag, or the digest of a caption dataset.
            data: its content. What is replaced after it was read is not what was read.
        """
        if etag is None:
            return None
        if digest_of(data) == etag:
            return True
        version = self.version(uri)
        # Where a store tells no version, an ETag is a digest.
        return version == etag

    def _within_limit(self, address: Address, work: Callable[[Connections], bytes]) -> bytes:
        return within(self._limit_s, work, address.shown)
