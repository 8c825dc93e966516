"""A folder of this machine, or of a file system that all machines mount."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from raycap.errors import ObjectNotFound, RunConflict, StorageError
from raycap.storage.base import LISTING, WriteLock

_PAGE_ROWS = 10_000
_TEMPORARY = ".raycap-tmp"


class LocalStore:
    """A folder; see `Store`. Creates it on the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        """Its absolute path."""
        return str(self._root)

    def address(self, key: str) -> str:
        """The absolute path of a file."""
        return str(self._root / key)

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """Walk the folder in key order; names that are not UTF-8 are percent-encoded."""
        folder = self._root / prefix
        if not folder.exists():
            return
        rows: list[tuple[str, int, str]] = []
        try:
            for name, status in _walk(folder, prefix, ()):
                rows.append((name, status.st_size, etag_of(status)))
                if len(rows) == _PAGE_ROWS:
                    yield _table(rows)
                    rows = []
        except OSError as error:
            raise _explain(error, str(folder)) from error
        if rows:
            yield _table(rows)

    def read(self, key: str) -> bytes:
        """Read a whole file."""
        return read_file(self._root / key)

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of a file."""
        path = self._root / key
        try:
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
                return file.read()
        except OSError as error:
            raise _explain(error, str(path)) from error

    def write(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        path = self._root / key
        with _mapped_errors(path):
            temporary = _write_temporary(path, data)
            try:
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def create(self, key: str, data: bytes) -> bool:
        """Write a temporary file and link it to the name, which fails where one stands."""
        path = self._root / key
        with _mapped_errors(path):
            temporary = _write_temporary(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def delete(self, key: str) -> None:
        """Delete a file if there is one."""
        path = self._root / key
        with _mapped_errors(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[WriteLock]:
        """Hold the operating system's own lock: it ends with the process, even at `kill -9`."""
        path = self._root / key
        with _mapped_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunConflict(
                    f"{self.uri}: another run is writing here ({holder}); "
                    "wait for it, stop it, or choose another output"
                ) from None
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
            yield _HeldLock()

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left."""
        for path in (self._root / prefix).glob(f"*{_TEMPORARY}"):
            path.unlink(missing_ok=True)


class _HeldLock:
    def check(self) -> None:
        """Nothing to check: the operating system keeps every other writer out."""


def read_file(path: Path | str, max_bytes: int | None = None) -> bytes:
    """Read a local file, at most `max_bytes + 1` of it.

    Raises:
        ObjectNotFound: there is none, or a folder stands there.
        StorageError: it cannot be read.
    """
    try:
        if not os.path.exists(path) and "%" in str(path):
            path = os.fsdecode(unquote_to_bytes(str(path)))  # as `_display` wrote it
        with open(path, "rb") as file:
            return file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise _explain(error, str(path)) from error


@contextmanager
def _mapped_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, str(path)) from error


def _explain(error: OSError, path: str) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return ObjectNotFound(f"{path}: no such file")
    return StorageError(f"{path}: {error.strerror or error}")


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _walk(
    folder: Path, prefix: str, ancestors: tuple[str, ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (key, status) of every file in key order, following links but no loop of links."""
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    with os.scandir(folder) as entries:
        # A folder sorts as its name with "/", so that whole keys come out in byte order.
        named = [(_display(e.name) + ("/" if e.is_dir() else ""), e) for e in entries]
    named.sort(key=lambda item: item[0])  # code points sort as their UTF-8 bytes do
    for name, entry in named:
        if name.endswith("/"):
            yield from _walk(Path(entry.path), prefix + name, (*ancestors, real))
        elif entry.is_file():
            yield prefix + name, entry.stat()


def _display(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return quote(os.fsencode(name))
    return name


def etag_of(status: os.stat_result) -> str:
    """Tell a file's version by its size and modification time."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _table(rows: list[tuple[str, int, str]]) -> pa.Table:
    keys, sizes, etags = zip(*rows, strict=True)
    return pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)
