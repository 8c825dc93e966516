"""Every other store that fsspec knows: `gs://`, `az://`, `memory://` and many more."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import fsspec
import pyarrow as pa

from raycap.errors import ConfigError, ObjectNotFound, StorageError
from raycap.storage.base import LISTING, WriteLock
from raycap.storage.lock import heartbeat_lock

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_PAGE_ROWS = 1000


def open_filesystem(scheme: str) -> Any:
    """Open the fsspec file system of a scheme.

    Raises:
        ConfigError: there is none of that name, or its package is not installed.
    """
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f'pip install "raycap[{extra}]"' if extra else f"install it ({error})"
        raise ConfigError(f"{scheme}:// needs a package that is not installed: {remedy}") from error
    except ValueError as error:
        raise ConfigError(
            f"{scheme}:// is not a known kind of address; use a local path, s3://, https:// or a "
            "scheme of fsspec"
        ) from error


class ForeignStore:
    """A prefix on an fsspec file system; see `Store`."""

    def __init__(self, scheme: str, root: str) -> None:
        self._scheme = scheme
        self._root = root.rstrip("/")
        self._files = open_filesystem(scheme)

    @property
    def uri(self) -> str:
        """`scheme://root`."""
        return f"{self._scheme}://{self._root}"

    def address(self, key: str) -> str:
        """`scheme://root/key`."""
        return f"{self.uri}/{key}"

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """List all objects under a prefix; fsspec gathers a listing before it can be sorted."""
        root = self._files._strip_protocol(self.uri)
        with _Mapped(self.address(prefix)):
            found = self._files.find(f"{root}/{prefix}".rstrip("/"), detail=True)
        rows = sorted(
            (path.removeprefix(root).lstrip("/"), info.get("size"), _version(info))
            for path, info in found.items()
        )
        for page in _pages(rows):
            keys, sizes, etags = zip(*page, strict=True)
            yield pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)

    def read(self, key: str) -> bytes:
        """Read a whole object."""
        return read_foreign(self._files, self.address(key))

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of an object."""
        address = self.address(key)
        with _Mapped(address):
            tail: bytes = self._files.tail(address, num_bytes)
        return tail

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object in one request, as object stores make atomic."""
        address = self.address(key)
        with _Mapped(address):
            self._make_parent(address)
            self._files.pipe_file(address, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one stands there already."""
        address = self.address(key)
        with _Mapped(address):
            self._make_parent(address)
            try:
                self._files.pipe_file(address, data, mode="create")
            except FileExistsError:
                return False
        return True

    def swap(self, key: str, data: bytes, etag: str) -> str | None:
        """Replace an object if it still has that content.

        fsspec has no conditional write, so two writers that take over the same dead lock in the
        same moment are told apart at the next beat only, not at once as on S3.
        """
        if self.read_versioned(key)[1] != etag:
            return None
        self.write(key, data)
        return _digest(data)

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Read a small object and a digest of it."""
        data = self.read(key)
        return data, _digest(data)

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens where there is none."""
        address = self.address(key)
        with _Mapped(address):
            if self._files.exists(address):
                self._files.rm_file(address)

    def lock(self, key: str) -> AbstractContextManager[WriteLock]:
        """Hold a small object that is rewritten every few seconds; see `storage.lock`."""
        return heartbeat_lock(self, key)

    def remove_leftovers(self, prefix: str) -> None:
        """Nothing to remove: an interrupted upload leaves nothing on an object store."""

    def _make_parent(self, address: str) -> None:
        self._files.makedirs(address.rpartition("/")[0], exist_ok=True)


def read_foreign(files: Any, uri: str, max_bytes: int | None = None) -> bytes:
    """Read an object of an fsspec file system, at most `max_bytes + 1` of it."""
    with _Mapped(uri):
        end = None if max_bytes is None else max_bytes + 1
        data: bytes = files.cat_file(uri, end=end)
    return data


class _Mapped(AbstractContextManager[None]):
    """Turn the errors of an fsspec file system into ours."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, FileNotFoundError | IsADirectoryError):
            raise ObjectNotFound(f"{self._address}: no such object") from error
        if isinstance(error, OSError):
            raise StorageError(f"{self._address}: {error}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version(info: dict[str, Any]) -> str | None:
    for name in ("etag", "ETag", "md5Hash", "last_modified", "LastModified", "mtime", "created"):
        if info.get(name):
            return str(info[name]).strip('"')
    return None


def _pages(rows: Any) -> Iterator[Any]:
    for start in range(0, len(rows), _PAGE_ROWS):
        yield rows[start : start + _PAGE_ROWS]
