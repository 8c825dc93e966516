"""A folder of this machine, or of a file system that all machines mount, as a store."""

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from raycap.errors import ObjectNotFound, RunConflict, StorageError
from raycap.storage.base import LISTING, WriteLock

_PAGE_ROWS = 1_000
_TEMPORARY = ".raycap-tmp"


class LocalStore:
    """A folder as a `Store`; created by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        """The absolute path of the folder."""
        return str(self._root)

    def address(self, key: str) -> str:
        """Return the absolute path of a file."""
        return str(self._root / key)

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        """Walk the folder in key order; names that are not UTF-8 are percent-encoded."""
        folder = self._root / prefix
        rows: list[tuple[str, int, str]] = []
        with _mapped_errors(folder):
            if status_of(str(folder)) is None:
                return
            for name, status in _walk(str(folder), prefix, ()):
                rows.append((name, status.st_size, etag_of(status)))
                if len(rows) == _PAGE_ROWS:
                    yield _table(rows)
                    rows = []
        if rows:
            yield _table(rows)

    def read(self, key: str) -> bytes:
        """Read a whole file."""
        return read_file(self._root / key)

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Read at most the last `num_bytes` of a file."""
        path = self._root / key
        with _mapped_errors(path), path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
            return file.read()

    def exists(self, key: str) -> bool:
        """Whether there is a file at a key."""
        path = self._root / key
        try:
            with _mapped_errors(path):
                return stat.S_ISREG(path.stat().st_mode)
        except ObjectNotFound:
            return False

    def read_range(self, key: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of a file from an offset on."""
        return read_file_range(self._root / key, offset_bytes, num_bytes)

    def size(self, key: str) -> int:
        """Return the size of a file in bytes."""
        path = self._root / key
        with _mapped_errors(path):
            return path.stat().st_size

    def write(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        path = self._root / key
        with _mapped_errors(path):
            temporary = _write_temporary(path, data)
            try:
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def upload(self, key: str, file: Path) -> None:
        """Rename the file; from another file system it is copied beside its destination first."""
        path = self._root / key
        with _mapped_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary_beside(path)
            try:
                shutil.move(file, temporary)
                with temporary.open("rb") as moved:
                    os.fsync(moved.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def create(self, key: str, data: bytes) -> bool:
        """Write a temporary file and hard-link it to the name, which fails if the name exists."""
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
        """Delete a file, if there is one."""
        path = self._root / key
        with _mapped_errors(path):
            path.unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with its content, if there is one."""
        folder = self._root / prefix
        with _mapped_errors(folder):
            if folder.is_dir():
                shutil.rmtree(folder)

    @contextmanager
    def lock(self, key: str) -> Iterator[WriteLock]:
        """Hold a lock of the operating system, which ends with the process, even at `kill -9`."""
        path = self._root / key
        with _mapped_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not through a link: somebody else with write access could make it empty another file.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            file = os.fdopen(os.open(path, flags, 0o666), "a+", encoding="utf-8")
        with file:
            with _mapped_errors(path):
                self._take(file)
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
            yield _HeldLock()

    def _take(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunConflict(
                f"{self.uri}: another run is writing here ({holder}); "
                "wait for it, stop it, or choose another output"
            ) from None

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left in the folder."""
        folder = self._root / prefix
        with _mapped_errors(folder):
            for path in folder.glob(f"*{_TEMPORARY}"):
                path.unlink(missing_ok=True)


class _HeldLock:
    def check(self) -> None:
        """Do nothing: the operating system keeps every other writer out."""


def read_file(path: Path | str, max_bytes: int | None = None) -> bytes:
    """Read a local file, at most `max_bytes + 1` of it.

    Raises:
        ObjectNotFound: there is none, or it is a folder.
        StorageError: it cannot be read.
    """
    with _mapped_errors(path), open(_real_path(path), "rb") as file:
        return file.read() if max_bytes is None else file.read(max_bytes + 1)


def read_file_range(path: Path | str, offset_bytes: int, num_bytes: int) -> bytes:
    """Read `num_bytes` of a local file from an offset on. Raises as `read_file` does."""
    with _mapped_errors(path), open(_real_path(path), "rb") as file:
        file.seek(offset_bytes)
        return file.read(num_bytes)


def _real_path(path: Path | str) -> Path | str:
    if not os.path.exists(path) and "%" in str(path):
        return _undisplay(Path(path))
    return path


@contextmanager
def _mapped_errors(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectNotFound(f"{error.filename or path}: no such file") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Not `error.filename`: of a copy between file systems that is the source.
            raise StorageError(f"{path}: {error.strerror}: make room", uri=str(path)) from error
        # The name is too long, or a link to itself: no file can exist there.
        is_no_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        kind = ObjectNotFound if is_no_name else StorageError
        raise kind(f"{error.filename or path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise ObjectNotFound(f"{str(path)!r}: no such file") from error


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary_beside(path: Path) -> Path:
    # Without the file's own name, which may be as long as a name can be.
    return path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")


def _walk(
    folder: str, prefix: str, ancestors: tuple[str, ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (key, status) of every file in key order; follow links, but not loops of links."""
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    with os.scandir(folder) as entries:
        # A folder sorts as its name with "/", so that whole keys come out in byte order. Names
        # alone are kept: a folder may hold millions.
        names = [entry.name + ("/" if _is_folder(entry) else "") for entry in entries]
    names.sort(key=display)  # code points sort as their UTF-8 bytes do
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _walk(path[:-1], prefix + display(name), (*ancestors, real))
            continue
        status = status_of(path)
        if status is not None and stat.S_ISREG(status.st_mode):
            yield prefix + display(name), status


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a file; None if it is gone, or is a link to nothing or to itself."""
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def display(path: str) -> str:
    """Percent-encode the names of a path that are not UTF-8, which no table can hold."""
    if _is_utf8(path):
        return path
    names = path.split("/")
    return "/".join(name if _is_utf8(name) else quote(os.fsencode(name)) for name in names)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _undisplay(path: Path) -> Path:
    """Find the file whose names `display` wrote, each decoded only if it does not stand as is."""
    found = Path(path.anchor)
    for name in path.relative_to(path.anchor).parts:
        as_is = found / name
        found = as_is if os.path.lexists(as_is) else found / os.fsdecode(unquote_to_bytes(name))
    return found


def etag_of(status: os.stat_result) -> str:
    """Tell a file's version by its size and modification time."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _table(rows: list[tuple[str, int, str]]) -> pa.Table:
    keys, sizes, etags = zip(*rows, strict=True)
    return pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)
