"""All other stores, through fsspec: `gs://`, `az://`, `memory://` and many more."""

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from raycap.config import StorageConfig
from raycap.errors import (
    ConfigError,
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage.address import Address
from raycap.storage.base import LISTING
from raycap.storage.fence import LockObjectStore

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_PAGE_ROWS = 1000
_MESSAGE_CHARS = 200


def open_filesystem(scheme: str) -> Any:
    """Open the fsspec file system of a scheme.

    Raises:
        ConfigError: fsspec has none of that name, or its package is not installed.
    """
    kind = _find_class(scheme)
    try:
        return kind()
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{scheme}:// cannot be opened: {error}", uri=f"{scheme}://") from error


class _PackageMissing(ConfigError):
    """A package for a kind of address is not installed."""


def _find_class(scheme: str) -> Any:
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f'pip install "raycap[{extra}]"' if extra else f"install it ({error})"
        raise _PackageMissing(
            f"{scheme}:// needs a package that is not installed: {remedy}", uri=f"{scheme}://"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{scheme}:// is not a known kind of address; use a local path, s3://, https:// or a "
            "scheme of fsspec",
            uri=f"{scheme}://",
        ) from error


@lru_cache(maxsize=256)
def scheme_fault(scheme: str) -> str | None:
    """Return why nobody can read a file at an address of a scheme; None if some machine can."""
    try:
        kind = _find_class(scheme)
    except _PackageMissing:
        return None
    except ConfigError as error:
        return str(error)
    needed = [
        name
        for name, parameter in list(signature(kind.__init__).parameters.items())[1:]
        if parameter.default is Parameter.empty
        and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    ]
    if needed:
        return f"{scheme}:// cannot be read: it needs more than an address ({', '.join(needed)})"
    return None


@lru_cache(maxsize=256)
def missing_package(scheme: str) -> str | None:
    """Return which package this machine lacks for addresses of a scheme; None if it lacks none."""
    try:
        _find_class(scheme)
    except _PackageMissing as error:
        return str(error)
    except ConfigError:
        return None
    return None


class ForeignStore(LockObjectStore):
    """A prefix on an fsspec file system as a `Store`."""

    def __init__(self, address: Address, config: StorageConfig) -> None:
        super().__init__(address, config)
        self._scheme = address.scheme
        self._root = address.path.rstrip("/")
        self._files = open_filesystem(address.scheme)

    @property
    def uri(self) -> str:
        """Its address, without a trailing slash."""
        return f"{self._scheme}://{self._root}"

    def address(self, key: str) -> str:
        """Return the full address of a key."""
        return f"{self.uri}/{key}"

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """List all objects under a prefix; fsspec returns a whole listing, which is then sorted."""
        root = self._files._strip_protocol(self.uri)
        folder = f"{root}/{prefix}".rstrip("/")
        found = self._call(prefix, lambda _: self._files.find(folder, detail=True))
        rows = sorted(
            (path.removeprefix(root).lstrip("/"), info.get("size"), _version(info))
            for path, info in found.items()
        )
        for page in _pages(rows):
            keys, sizes, etags = zip(*page, strict=True)
            yield pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)

    def holds_any(self) -> bool:
        """Whether there is a folder or prefix at its own address."""
        return bool(self._call("", lambda _: self._files.isdir(self.uri)))

    def read(self, key: str) -> bytes:
        """Read a whole object."""
        data: bytes = self._call(key, self._files.cat_file)
        return data

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of an object."""
        tail: bytes = self._call(key, lambda address: self._files.tail(address, num_bytes))
        return tail

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of an object from an offset on."""
        end = offset_bytes + num_bytes
        data: bytes = self._call(key, lambda a: self._files.cat_file(a, offset_bytes, end))
        return data

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""
        num_bytes: int = self._call(key, self._files.size)
        return num_bytes

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object in one request, which object stores make atomic."""

        def attempt(address: str) -> None:
            self._make_parent(address)
            self._files.pipe_file(address, data)

        self._call(key, attempt)

    def upload(self, key: str, file: Path) -> None:
        """Write or replace an object from a local file, in parts if fsspec can."""

        def attempt(address: str) -> None:
            self._make_parent(address)
            self._files.put_file(str(file), address)

        self._call(key, attempt)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists; return whether it was written."""

        def attempt(address: str) -> bool:
            self._make_parent(address)
            try:
                self._files.pipe_file(address, data, mode="create")
            except FileExistsError:
                return False
            return True

        created: bool = self._call(key, attempt)
        return created

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Replace an object if it still has that content, or create it if None.

        fsspec has no conditional write but `create`: of two writers that take over the same dead
        lock at the same moment, one loses at its next heartbeat, not at once as on S3.
        """
        if version is None:
            return _digest(data) if self.create(key, data) else None
        if self.version(key) != version:
            return None
        self.write(key, data)
        return _digest(data)

    def upload_if(self, key: str, file: Path, version: str | None) -> bool:
        """Upload if the object still has that content, or if None, there is none."""
        if self.version(key) != version:
            return False
        self.upload(key, file)
        return True

    def version(self, key: str) -> str | None:
        """Return the digest of an object; None if there is none."""
        try:
            return _digest(self.read(key))
        except ObjectNotFound:
            return None

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Read a small object and a digest of it."""
        data = self.read(key)
        return data, _digest(data)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""

        def attempt(address: str) -> None:
            if self._files.exists(address):
                self._files.rm_file(address)

        self._call(key, attempt)

    def delete_all(self, prefix: str) -> None:
        """Delete every object under a prefix."""

        def attempt(address: str) -> None:
            if self._files.exists(address.rstrip("/")):
                self._files.rm(address.rstrip("/"), recursive=True)

        self._call(prefix, attempt)

    def _call(self, key: str, attempt: Callable[[str], Any]) -> Any:
        return self._retrying(_mapped, attempt, self.address(key))

    def _make_parent(self, address: str) -> None:
        self._files.makedirs(address.rpartition("/")[0], exist_ok=True)


def read_foreign(files: Any, uri: str, start: int, end: int) -> bytes:
    """Read an image on an fsspec file system from byte `start` to byte `end`, or to its end.

    Raises:
        ObjectNotFound: there is no such object.
        ObjectForbidden: it is refused.
        TransientError: throttled, timed out or disconnected.
    """
    try:
        data: bytes = _mapped(lambda address: files.cat_file(address, start, end), uri)
    except StorageError as error:
        if type(error) is not StorageError:
            raise
        raise ObjectForbidden(str(error), uri=uri) from error
    # The packages behind fsspec have errors of their own for replies.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MESSAGE_CHARS]
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if str(status).isdecimal() and 400 <= int(str(status)) < 500 and int(str(status)) != 429:
            raise ObjectForbidden(f"{uri}: {reason}", uri=uri) from error
        raise TransientError(ErrorCode.SERVER_ERROR, f"{uri}: {reason}") from error
    return data


def foreign_version(files: Any, uri: str) -> str | None:
    """Return the version of an object of an fsspec file system; None if it tells none."""
    return _version(_mapped(files.info, uri))


def _mapped(attempt: Callable[[str], Any], address: str) -> Any:
    """Run one attempt and turn the errors of an fsspec file system into ours."""
    try:
        return attempt(address)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ObjectNotFound(f"{address}: no such object", uri=address) from error
    except (TimeoutError, ConnectionError) as error:
        code = ErrorCode.TIMEOUT if isinstance(error, TimeoutError) else ErrorCode.NETWORK
        reason = str(error) or type(error).__name__
        raise TransientError(code, f"{address}: {reason}") from error
    except PermissionError as error:
        raise ObjectForbidden(f"{address}: {error}", uri=address) from error
    except OSError as error:
        raise StorageError(f"{address}: {error}", uri=address) from error


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
