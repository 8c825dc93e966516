"""Folders of this machine: writing into an open folder, and the lock of a whole folder.

A writer is fenced by what it holds open. It locks `lock.json` and, where the file system can, the
folder itself, so that deleting `lock.json` admits nobody. Before each write, and again before the
new file gets its name, it makes sure that the path still leads to the file that it has locked. The
write starts from the open folder: a folder that took the name of a deleted or renamed one is never
written to.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from raycap.errors import ObjectNotFound, RunConflict, StorageError
from raycap.storage.lock import describe, not_held, process_table

TEMPORARY = ".raycap-tmp"
"""Suffix of temporary files."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_NO_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)
_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
)


@contextmanager
def opened(path: Path | str, *, dir_fd: int | None = None, follow: bool = True) -> Iterator[int]:
    """Yield a handle of a folder, closed after the block."""
    handle = os.open(path, _FOLDER | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    try:
        yield handle
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file is to be written."""

    folder: int
    """Handle of its open folder."""
    name: str
    check: Callable[[], None]
    """Raises if it may no longer be written; called last, as writing to a busy disk takes long."""

    def replace_by(self, temporary: str) -> None:
        """Give a temporary file of the folder this name."""
        self.check()
        os.replace(temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)


def write(place: Place, data: bytes) -> None:
    """Write or replace a file, atomically."""
    with _temporary(place.folder, data) as temporary:
        place.replace_by(temporary)


def create(place: Place, data: bytes) -> bool:
    """Write a file unless one exists; return whether it was written."""
    folder = place.folder
    with _temporary(folder, data) as temporary:
        place.check()
        try:
            os.link(temporary, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(place, temporary)
    return True


def _create_without_links(place: Place, temporary: str) -> bool:
    """Create the name empty, which decides between two writers, and replace it."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        os.close(os.open(place.name, flags, 0o666, dir_fd=place.folder))
    except FileExistsError:
        return False
    try:
        place.replace_by(temporary)
    except (OSError, RunConflict, StorageError):
        with suppress(OSError):
            os.unlink(place.name, dir_fd=place.folder)
        raise
    return True


def move_in(place: Place, file: Path) -> None:
    """Move a file into a folder; from another file system it is copied beside its place first."""
    folder, temporary = place.folder, _temporary_name()
    try:
        try:
            os.rename(file, temporary, dst_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with file.open("rb") as source, _create_file(folder, temporary) as copy:
                shutil.copyfileobj(source, copy)
            file.unlink()
        moved = os.open(temporary, os.O_RDONLY, dir_fd=folder)
        try:
            os.fsync(moved)
        finally:
            os.close(moved)
        place.replace_by(temporary)
    finally:
        unlink(folder, temporary)


def delete_tree(folder: int, name: str) -> None:
    """Delete a folder with its content; of a link, the link only."""
    if _is_link(name, folder):
        os.unlink(name, dir_fd=folder)
    else:
        shutil.rmtree(name, dir_fd=folder)


def remove_temporary(path: Path) -> None:
    """Delete the temporary files in a folder."""
    for file in path.glob(f"*{TEMPORARY}"):
        file.unlink(missing_ok=True)


def _is_link(name: str, folder: int) -> bool:
    with suppress(OSError):
        os.readlink(name, dir_fd=folder)
        return True
    return False


@contextmanager
def _temporary(folder: int, data: bytes) -> Iterator[str]:
    """Write a temporary file, and yield its name; it is deleted unless it was renamed."""
    name = _temporary_name()
    try:
        with _create_file(folder, name) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        unlink(folder, name)


def _create_file(folder: int, name: str) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "wb")


def _temporary_name() -> str:
    # Without the file's own name, which may be as long as a name can be.
    return f".{secrets.token_hex(8)}{TEMPORARY}"


def unlink(folder: int, name: str) -> None:
    """Delete a file, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


class OpenFolder:
    """A folder that is kept open, from which files are reached whatever its path leads to now."""

    def __init__(self, root: Path, handle: int) -> None:
        self._root = root
        self._handle = handle

    @contextmanager
    def parent_of(self, key: str, *, create: bool) -> Iterator[int]:
        """Yield the folder that holds a key, reached from the open folder and not by its path.

        Raises:
            StorageError: a folder on the way is a link.
            FileNotFoundError: there is no such folder, and it is not to be created.
        """
        with ExitStack() as handles:
            folder, place = self._handle, self._root
            for name in key.split("/")[:-1]:
                place /= name
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                folder = handles.enter_context(_inner(name, folder, place))
            yield folder


class UnlockedFolder(OpenFolder):
    """A folder that is created, and written to beside the holder of its lock, if there is one."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, _FOLDER)
        weakref.finalize(self, os.close, handle)
        super().__init__(root, handle)

    def check(self) -> None:
        """Accept any holder."""


class FolderLock(OpenFolder):
    """A folder that this process has locked, and the test that its path still leads there."""

    def __init__(self, root: Path, key: str, folder: int, file: TextIO) -> None:
        super().__init__(root, folder)
        self._path = root / key
        self._file = file
        self.token = secrets.token_hex(8)
        """What `lock.json` names its holder by."""

    def check(self) -> None:
        """Raise RunConflict if the folder or its lock was deleted, renamed or replaced."""
        if not self.is_current():
            raise RunConflict(
                f"{self._root}: the output or its {self._path.name} was deleted, renamed or "
                "replaced while this run was writing; it has stopped, and wrote nothing since: run "
                "the same command again where the output is now",
                uri=str(self._root),
            )

    def is_current(self) -> bool:
        """Whether the path leads to the lock file that is held."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError(
                f"{self._path}: {error.strerror or error}", uri=str(self._path)
            ) from error
        held = os.fstat(self._file.fileno())
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def sign(self) -> None:
        """Write down who holds the lock."""
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": process_table(),
            "owner": self.token,
        }
        self._file.truncate(0)
        self._file.write(json.dumps(owner))
        self._file.flush()


class FolderWitness(OpenFolder):
    """A folder that another process has locked, such as the driver of this worker."""

    def __init__(self, root: Path, key: str, token: str) -> None:
        handle = os.open(root, _FOLDER)
        weakref.finalize(self, os.close, handle)
        super().__init__(root, handle)
        self._key = key
        self._token = token

    def check(self) -> None:
        """Raise RunConflict unless the lock file names that holder."""
        try:
            holder = describe((self._root / self._key).read_bytes())
        except OSError:
            holder = {}
        if holder.get("owner") != self._token:
            raise not_held(str(self._root))


@contextmanager
def _inner(name: str, folder: int, place: Path) -> Iterator[int]:
    try:
        handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, folder):
            raise StorageError(
                f"{place}: is a link; raycap does not write through links within an output: "
                "replace it by a folder, or give another output",
                uri=str(place),
            ) from error
        raise
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def folder_lock(root: Path, key: str) -> Iterator[FolderLock]:
    """Lock a folder, which is created, within the block.

    Raises:
        RunConflict: another process holds it.
        StorageError: the folder cannot be written, or its file system has no locks.
    """
    with ExitStack() as handles:
        try:
            held = _take(root, key, handles)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            named = str(error.filename or root / key)
            raise ObjectNotFound(f"{named}: no such file", uri=named) from error
        except OSError as error:
            raise StorageError(
                f"{root / key}: {error.strerror or error}", uri=str(root / key)
            ) from error
        yield held


def check_locks(root: Path) -> None:
    """Make sure that the file system of a folder, which is created, has locks.

    Raises:
        StorageError: it has none, or the folder cannot be written.
    """
    name = f"raycap-doctor-{secrets.token_hex(8)}.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / name).open("x+", encoding="utf-8") as file:
            try:
                _lock(file.fileno(), root, file)
            finally:
                (root / name).unlink()
    except OSError as error:
        raise StorageError(f"{root / name}: {error.strerror or error}", uri=str(root)) from error


def _take(root: Path, key: str, handles: ExitStack) -> FolderLock:
    while True:
        root.mkdir(parents=True, exist_ok=True)
        folder = handles.enter_context(opened(root))
        # Not through a link: somebody else with write access could make it empty another file.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.fdopen(os.open(key, flags, 0o666, dir_fd=folder), "a+", encoding="utf-8")
        handles.callback(file.close)
        held = FolderLock(root, key, folder, file)
        _lock(file.fileno(), root, file)
        _lock_folder(folder, root, file)
        if held.is_current():  # it may have been deleted between opening and locking
            held.sign()
            return held
        handles.pop_all().close()


def _lock(handle: int, root: Path, file: TextIO) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _conflict(root, file) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"{root}: its file system has no locks ({error.strerror}), so two runs could write at "
            "once; mount it with locks (NFS: without `nolock`, and with rpc.statd running), or "
            "give an output elsewhere, such as a local disk or s3://bucket/prefix",
            uri=str(root),
        ) from error


def _lock_folder(handle: int, root: Path, file: TextIO) -> None:
    """Lock the folder too; some file systems lock only files, and `check` serves there."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _conflict(root, file) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS | {errno.EISDIR, errno.EACCES, errno.EPERM}:
            raise


def _conflict(root: Path, file: TextIO) -> RunConflict:
    file.seek(0)
    holder = file.read().strip() or "unknown"
    return RunConflict(
        f"{root}: another run is writing here ({holder}); "
        "wait for it, stop it, or choose another output",
        uri=str(root),
    )
