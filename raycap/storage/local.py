"""A folder of this machine, or of a file system that all machines mount, as a store."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from raycap.errors import ObjectNotFound, StorageError
from raycap.storage import folders
from raycap.storage.base import LISTING, HeldLock
from raycap.storage.folders import FolderLock, FolderWitness, folder_lock

_PAGE_ROWS = 1_000


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
        with self._writing(key) as (folder, name):
            folders.write(folder, name, data)

    def upload(self, key: str, file: Path) -> None:
        """Rename the file; from another file system it is copied beside its destination first."""
        with self._writing(key) as (folder, name):
            folders.move_in(folder, name, file)

    def create(self, key: str, data: bytes) -> bool:
        """Write a temporary file and hard-link it to the name, which fails if the name exists.

        Without hard links the name is created empty, which fails if it exists, and then replaced.
        """
        with self._writing(key) as (folder, name):
            return folders.create(folder, name, data)

    def delete(self, key: str) -> None:
        """Delete a file, if there is one."""
        path = self._root / key
        with _mapped_errors(path):
            path.unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with its content, if there is one."""
        path = self._root / prefix
        with _mapped_errors(path):
            if path.is_dir():
                shutil.rmtree(path)

    @contextmanager
    def lock(self, key: str) -> Iterator[HeldLock]:
        """Hold a lock of the operating system, which ends with the process, even at `kill -9`."""
        with folder_lock(self._root, key) as held:
            yield _Held(self._root, held)

    def witnessed(self, key: str, token: str) -> "PinnedStore":
        """Return the folder for a worker of the lock's holder, maybe on another machine."""
        with _mapped_errors(self._root):
            return PinnedStore(self._root, FolderWitness(self._root, key, token))

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left in the folder."""
        path = self._root / prefix
        with _mapped_errors(path):
            if path.is_dir() and not (prefix and path.is_symlink()):
                folders.remove_temporary(path)

    @contextmanager
    def _writing(self, key: str) -> Iterator[tuple[int, str]]:
        """Open the folder of a key, which is created, and yield it with the file's name."""
        path = self._root / key
        with _mapped_errors(path, is_ours=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with folders.opened(path.parent) as folder:
                yield folder, path.name


class PinnedStore(LocalStore):
    """A locked folder: what is written goes into that very folder, and only while it is held.

    Files are reached from an open handle of the folder, not by its path: if the folder is deleted
    or renamed, and another takes its name, nothing is written into that other folder. Links within
    the folder are not followed.
    """

    def __init__(self, root: Path, held: FolderLock | FolderWitness) -> None:
        super().__init__(root)
        self._held = held

    def delete(self, key: str) -> None:
        """Delete a file, if there is one."""
        with self._found(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with its content, if there is one."""
        with self._found(prefix.rstrip("/")) as (folder, name):
            folders.delete_tree(folder, name)

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left in the folder."""
        self._held.check()
        super().remove_leftovers(prefix)

    @contextmanager
    def _writing(self, key: str) -> Iterator[tuple[int, str]]:
        self._held.check()
        with (
            _mapped_errors(self._root / key, is_ours=True),
            self._held.parent_of(key, create=True) as folder,
        ):
            yield folder, key.rpartition("/")[2]

    @contextmanager
    def _found(self, key: str) -> Iterator[tuple[int, str]]:
        """Yield the folder and the name of what is to be deleted; ignore that it does not exist."""
        self._held.check()
        with _mapped_errors(self._root / key, is_ours=True):
            try:
                with self._held.parent_of(key, create=False) as folder:
                    yield folder, key.rpartition("/")[2]
            except FileNotFoundError:
                return


class _Held:
    """A held folder, as a `HeldLock`."""

    def __init__(self, root: Path, held: FolderLock) -> None:
        self._held = held
        self._store = PinnedStore(root, held)

    @property
    def store(self) -> PinnedStore:
        """The folder, for its only writer."""
        return self._store

    @property
    def token(self) -> str:
        """What `lock.json` names its holder by."""
        return self._held.token

    def check(self) -> None:
        """Raise RunConflict if the folder or its lock was deleted, renamed or replaced."""
        self._held.check()

    def ensure(self) -> None:
        """Do the same: the operating system answers at once."""
        self._held.check()


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


def file_version(path: Path | str) -> str:
    """Return the version of a local file, as a listing has it. Raises as `read_file` does."""
    with _mapped_errors(path):
        return etag_of(os.stat(_real_path(path)))


def _real_path(path: Path | str) -> Path | str:
    if not os.path.exists(path) and "%" in str(path):
        return _undisplay(Path(path))
    return path


@contextmanager
def _mapped_errors(path: Path | str, *, is_ours: bool = False) -> Iterator[None]:
    """Turn errors of the operating system into ours.

    Args:
        path: what is read or written.
        is_ours: name it in messages, rather than the temporary file that the error is about.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        name = path if is_ours else error.filename or path
        raise ObjectNotFound(f"{name}: no such file") from error
    except OSError as error:
        # The name is too long, or a link to itself: no file can exist there.
        is_no_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        kind = ObjectNotFound if is_no_name else StorageError
        name = path if is_ours else error.filename or path
        raise kind(f"{name}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise ObjectNotFound(f"{str(path)!r}: no such file") from error


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
