"""A folder of this machine, or of a file system that all machines mount, as a store."""

import errno
import os
import shutil
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from raycap.errors import (
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage import folders
from raycap.storage.base import LISTING, HeldLock
from raycap.storage.folders import FolderLock, FolderWitness, UnlockedFolder, folder_lock

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
        """Walk the folder in key order; names that are not UTF-8 are percent-encoded.

        Raises if a folder below it cannot be read, unlike `survey`.
        """
        return self._pages(Walk(), prefix)

    def survey(
        self,
        left_out: Counter[str],
        enters: Callable[[str], bool] | None = None,
        prefix: str = "",
    ) -> Iterator[pa.Table]:
        """List all files as `list` does, and count what cannot be listed instead of raising.

        Args:
            left_out: Counts dangling links, unreadable folders and the like.
            enters: Whether to walk into a folder, by its key; None: into all.
            prefix: List the files under it only.

        Raises:
            StorageError: the folder itself cannot be read.
        """
        return self._pages(Walk(left_out, enters), prefix)

    def _pages(self, walk: "Walk", prefix: str) -> Iterator[pa.Table]:
        folder = self._root / prefix
        rows: list[tuple[str, int, str]] = []
        with _mapped_errors(folder):
            if status_of(str(folder)) is None:
                return
            for name, status in walk(str(folder), prefix):
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
        with self._writing(key) as place:
            folders.write(place, data)

    def upload(self, key: str, file: Path) -> None:
        """Rename the file; from another file system it is copied beside its destination first."""
        with self._writing(key) as place:
            folders.move_in(place, file)

    def create(self, key: str, data: bytes) -> bool:
        """Write a temporary file and hard-link it to the name, which fails if the name exists.

        Without hard links the name is created empty, which fails if it exists, and then replaced.
        """
        with self._writing(key) as place:
            return folders.create(place, data)

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

    def unfollowing(self) -> "PinnedStore":
        """Return the folder, which is created, as a store that writes through no link within it."""
        with _mapped_errors(self._root):
            return PinnedStore(self._root, UnlockedFolder(self._root))

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left in the folder."""
        path = self._root / prefix
        with _mapped_errors(path):
            if path.is_dir() and not (prefix and path.is_symlink()):
                folders.remove_temporary(path)

    @contextmanager
    def _writing(self, key: str) -> Iterator[folders.Place]:
        """Open the folder of a key, which is created, and yield the place of its file."""
        path = self._root / key
        with _mapped_errors(path, is_ours=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with folders.opened(path.parent) as folder:
                yield folders.Place(folder=folder, name=path.name, check=lambda: None)


class PinnedStore(LocalStore):
    """A locked folder: what is written goes into that very folder, and only while it is held.

    Files are reached from an open handle of the folder, not by its path: if the folder is deleted
    or renamed, and another takes its name, nothing is written into that other folder. Links within
    the folder are not followed.
    """

    def __init__(self, root: Path, held: FolderLock | FolderWitness | UnlockedFolder) -> None:
        super().__init__(root)
        self._held = held

    def delete(self, key: str) -> None:
        """Delete a file, if there is one."""
        self._remove(key, folders.unlink)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with its content, if there is one."""
        self._remove(prefix.rstrip("/"), folders.delete_tree)

    def remove_leftovers(self, prefix: str) -> None:
        """Delete temporary files that a killed writer left in the folder."""
        self._held.check()
        super().remove_leftovers(prefix)

    @contextmanager
    def _writing(self, key: str) -> Iterator[folders.Place]:
        self._held.check()
        with (
            _mapped_errors(self._root / key, is_ours=True),
            self._held.parent_of(key, create=True) as folder,
        ):
            name = key.rpartition("/")[2]
            yield folders.Place(folder=folder, name=name, check=self._held.check)

    def _remove(self, key: str, remove: Callable[[int, str], None]) -> None:
        """Remove a name from its open folder; ignore that the name or a folder does not exist."""
        self._held.check()
        with (
            _mapped_errors(self._root / key, is_ours=True),
            suppress(FileNotFoundError),
            self._held.parent_of(key, create=False) as folder,
        ):
            remove(folder, key.rpartition("/")[2])


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
        ObjectNotFound: there is none, or it is no file: a folder, a pipe, a device.
        ObjectForbidden: its permissions forbid it.
        TransientError: its file system does not answer.
        StorageError: it cannot be read.
    """
    with _mapped_errors(path), _opened(path) as file:
        return file.read() if max_bytes is None else file.read(max_bytes + 1)


def read_file_range(path: Path | str, offset_bytes: int, num_bytes: int) -> bytes:
    """Read `num_bytes` of a local file from an offset on. Raises as `read_file` does."""
    with _mapped_errors(path), _opened(path) as file:
        file.seek(offset_bytes)
        return file.read(num_bytes)


def _opened(path: Path | str) -> BinaryIO:
    """Open a regular file to read; opening a pipe would wait for its writer, a device for ever."""
    real = _real_path(path)
    mode = os.stat(real).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder raises
        raise ObjectNotFound(f"{path}: is a {_kind(mode)}, not a file", uri=str(path))
    # It may have been replaced since.
    return open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def file_version(path: Path | str) -> str:
    """Return the version of a local file, as a listing has it. Raises as `read_file` does."""
    with _mapped_errors(path):
        return etag_of(os.stat(_real_path(path)))


def _real_path(path: Path | str) -> Path | str:
    text = str(path)
    if not os.path.exists(path) and ("%" in text or not text.isascii()):
        return _undisplay(Path(path))
    return path


_OUTAGES = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,  # a file system in a process of its own that has ended
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EREMOTEIO,
        errno.ETIMEDOUT,
        errno.ENXIO,
        errno.ENODEV,
    }
)


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
        named = str(_named(error, path, is_ours))
        is_folder = isinstance(error, IsADirectoryError)
        told = "is a folder, not a file" if is_folder else "no such file"
        raise ObjectNotFound(f"{named}: {told}", uri=named) from error
    except OSError as error:
        named = str(_named(error, path, is_ours))
        told = f"{named}: {error.strerror or error}"
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ObjectForbidden(told, uri=named) from error
        if error.errno in _OUTAGES:
            raise TransientError(ErrorCode.SERVER_ERROR, told) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Not `error.filename`: of a copy between file systems that is the source.
            raise StorageError(f"{path}: {error.strerror}: make room", uri=str(path)) from error
        # The name is too long, or a link to itself: no file can exist there.
        is_no_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        raise (ObjectNotFound if is_no_name else StorageError)(told, uri=named) from error
    except ValueError as error:  # a null byte in the name
        raise ObjectNotFound(f"{str(path)!r}: no such file") from error


def _named(error: OSError, path: Path | str, is_ours: bool) -> Path | str:
    """Return the file to name in a message; an open file has a number for a name."""
    is_path = isinstance(error.filename, str) and error.filename
    return error.filename if is_path and not is_ours else path


MAX_PATHS = 16
"""A folder that many links lead to is listed under this many of them, the first in key order."""

DANGLING, UNREADABLE, UNREADABLE_FILE, SPECIAL, REPEATED = (
    "dangling link",
    "unreadable folder",
    "unreadable file",
    "pipe or device",
    "repeated folder",
)
"""What a walk leaves out, as it is counted."""

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Open:
    """A folder that is being walked."""

    path: str
    prefix: str
    identity: _Identity
    is_linked: bool
    names: Iterator[tuple[str, str]]
    """Names still to come, as they are shown and as they are."""


class Walk:
    """A walk over the files of a folder in key order. Follows links, but not loops of links.

    Folders are kept in a list, since a tree may be deeper than Python's stack. Names alone are kept
    of the entries: a folder may hold millions.
    """

    def __init__(
        self,
        left_out: Counter[str] | None = None,
        enters: Callable[[str], bool] | None = None,
    ) -> None:
        """Prepare.

        Args:
            left_out: Counts what is left out; None: an unreadable folder is an error.
            enters: Whether to walk into a folder, by its key.
        """
        self._raises = left_out is None
        self._left_out: Counter[str] = Counter() if left_out is None else left_out
        self._enters = enters or (lambda _: True)
        self._num_paths: Counter[_Identity] = Counter()

    def __call__(self, folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (key, status) of every file."""
        above: list[_Open] = [self._opened(folder, prefix, is_linked=False)]
        while above:
            name = next(above[-1].names, None)
            if name is None:
                above.pop()
                continue
            shown, real = name
            path = os.path.join(above[-1].path, real)
            if shown.endswith("/"):
                if below := self._below(path, above[-1].prefix + shown, above):
                    above.append(below)
                continue
            if status := self._status(path):
                yield above[-1].prefix + shown, status

    def _status(self, path: str) -> os.stat_result | None:
        """Return the status of a regular file; None if it is left out, or gone."""
        try:
            status = os.stat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self._left_out[DANGLING] += os.path.islink(path)
                return None
            if self._raises and error.errno != errno.ENAMETOOLONG:
                raise
            self._left_out[UNREADABLE_FILE] += 1
            return None
        if stat.S_ISREG(status.st_mode):
            return status
        self._left_out[SPECIAL] += not stat.S_ISDIR(status.st_mode)
        return None

    def _below(self, path: str, prefix: str, above: list[_Open]) -> _Open | None:
        """Open a folder to walk; None if it is left out."""
        if not self._enters(prefix[:-1]):
            return None
        is_linked = above[-1].is_linked or os.path.islink(path)
        try:
            found = self._opened(path, prefix, is_linked=is_linked)
        except (FileNotFoundError, NotADirectoryError):
            return None  # gone
        except OSError as error:
            if self._raises and error.errno != errno.ENAMETOOLONG:
                raise
            self._left_out[UNREADABLE] += 1
            return None
        if any(found.identity == folder.identity for folder in above):
            return None
        # Folders without a link above them have one path only, and need no memory.
        if is_linked:
            self._num_paths[found.identity] += 1
            if self._num_paths[found.identity] > MAX_PATHS:
                self._left_out[REPEATED] += 1
                return None
        return found

    def _opened(self, path: str, prefix: str, *, is_linked: bool) -> _Open:
        status = os.stat(path)
        with os.scandir(path) as entries:
            names = [(entry.name, _is_folder(entry)) for entry in entries]
        return _Open(
            path=path,
            prefix=prefix,
            identity=(status.st_dev, status.st_ino),
            is_linked=is_linked,
            names=iter(_sorted(path, names)),
        )


def _sorted(folder: str, names: list[tuple[str, bool]]) -> list[tuple[str, str]]:
    """Return names as they are shown and as they are, in the order of keys.

    A folder sorts as its name with "/", so that whole keys come out in byte order.
    """
    shown = [(_display_name(folder, name) + "/" * is_folder, name) for name, is_folder in names]
    shown.sort()  # code points sort as their UTF-8 bytes do
    return shown


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or to what may not be seen: `status_of` says which.
        return False


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


def display_path(path: str) -> str:
    """As `display`, for the absolute path of a file: no other file's path looks the same."""
    if _is_utf8(path):
        return path
    shown, found = "", ""
    for name in path.split("/"):
        shown += "/" * bool(found) + _display_name(found or "/", name)
        found += "/" * bool(found) + name or "/"
    return shown


def _display_name(folder: str, name: str) -> str:
    """Percent-encode a name that is not UTF-8, so that no other name in its folder is the same."""
    if _is_utf8(name):
        return name
    data = os.fsencode(name.removesuffix("/"))
    end = "/" if name.endswith("/") else ""
    for shown in (quote(data), quote(data).lower(), "".join(f"%{byte:02X}" for byte in data)):
        if not os.path.lexists(os.path.join(folder, shown)):
            return shown + end
    raise StorageError(
        f"{display(os.path.join(folder, name))}: there is another file whose name is this one's, "
        "percent-encoded; rename one of them"
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _undisplay(path: Path) -> Path:
    """Find a file by its names, each as it is, in the other form of its accents, or decoded.

    Accented letters are one character or two, depending on the system that wrote them; they look
    the same. `display` encodes names that are not UTF-8.
    """
    found = Path(path.anchor)
    for name in path.relative_to(path.anchor).parts:
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        as_it_is = next((form for form in forms if os.path.lexists(found / form)), None)
        found /= os.fsdecode(unquote_to_bytes(name)) if as_it_is is None else as_it_is
    return found


def etag_of(status: os.stat_result) -> str:
    """Tell a file's version by its size and modification time."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _table(rows: list[tuple[str, int, str]]) -> pa.Table:
    keys, sizes, etags = zip(*rows, strict=True)
    return pa.table([pa.array(keys), pa.array(sizes), pa.array(etags)], schema=LISTING)
