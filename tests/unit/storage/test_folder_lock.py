"""The lock of a local folder: its holder writes into that folder, and into no other of its name."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycap.config import StorageConfig
from raycap.errors import ConfigError, RunConflict, StorageError
from raycap.storage.fence import FenceableStore
from raycap.storage.folders import check_locks
from raycap.storage.local import LocalStore
from raycap.storage.lock import check_conditional_writes
from raycap.storage.probe import check_single_writer
from raycap.storage.stores import open_store

KEY = "lock.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rename(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def begin_anew(root: Path) -> None:
    """As a person does who deletes an output, and starts another run there."""
    shutil.rmtree(root)
    with LocalStore(root).lock(KEY) as other:
        other.store.write("run.json", b"of the other")


def replace_lock(root: Path) -> None:
    (root / KEY).unlink()
    (root / KEY).write_text("{}")


@pytest.mark.parametrize(
    "change", [shutil.rmtree, rename, begin_anew, replace_lock, lambda root: (root / KEY).unlink()]
)
def test_a_folder_that_is_no_longer_the_locked_one_is_not_written_to(
    root: Path, change: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with LocalStore(root).lock(KEY) as lock:
        lock.store.write("captions/part-000000.parquet", b"x")
        change(root)
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        attempts: list[Callable[[], object]] = [
            lock.check,
            lambda: lock.store.write("captions/part-000001.parquet", b"x"),
            lambda: lock.store.create("run.json", b"x"),
            lambda: lock.store.upload("weights", file),
            lambda: lock.store.delete("captions/part-000000.parquet"),
            lambda: lock.store.delete_all("captions/"),
        ]
        for attempt in attempts:
            with pytest.raises(RunConflict) as caught:
                attempt()
            assert caught.value.uri == str(root)
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before


def test_a_write_that_was_under_way_does_not_reach_a_folder_begun_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is stopped between its check and its write."""

    def begin_anew_meanwhile(_: object) -> None:
        shutil.rmtree(root)
        LocalStore(root).write("run.json", b"of the other")

    with LocalStore(root).lock(KEY) as lock:
        lock.store.write("captions/part-000000.parquet", b"x")
        monkeypatch.setattr("raycap.storage.folders.FolderLock.check", begin_anew_meanwhile)
        with pytest.raises(StorageError):
            lock.store.write("captions/part-000000.parquet", b"late")
    assert [path.name for path in root.rglob("*")] == ["run.json"]


@pytest.mark.parametrize("change", [rename, begin_anew, replace_lock])
def test_a_write_that_was_under_way_does_not_reach_a_folder_changed_meanwhile(
    root: Path, change: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a driver that is stopped while its file goes to a busy disk."""
    real = os.fsync

    def slow(handle: int) -> None:
        real(handle)
        monkeypatch.setattr(os, "fsync", real)
        change(root)
        before.update(files_below(tmp_path))

    before: dict[Path, bytes] = {}
    with LocalStore(root).lock(KEY) as lock:
        lock.store.write("captions/part-000000.parquet", b"x")
        monkeypatch.setattr(os, "fsync", slow)
        with pytest.raises(RunConflict):
            lock.store.write("captions/part-000001.parquet", b"x")
    assert before
    assert files_below(tmp_path) == before


def files_below(folder: Path) -> dict[Path, bytes]:
    """The content of all files but temporary ones."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths if path.suffix != ".raycap-tmp"}


def test_a_deleted_lock_file_admits_no_second_writer(root: Path) -> None:
    with LocalStore(root).lock(KEY):
        (root / KEY).unlink()
        with pytest.raises(RunConflict):
            LocalStore(root).lock(KEY).__enter__()


@pytest.mark.parametrize("key", ["captions/part-000000.parquet", "manifest/x/y"])
def test_nothing_is_written_or_deleted_through_a_link(root: Path, tmp_path: Path, key: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "x").mkdir(parents=True)
    (elsewhere / "part-000000.parquet").write_bytes(b"precious")
    folder = key.partition("/")[0]
    with LocalStore(root).lock(KEY) as lock:
        (root / folder).symlink_to(elsewhere)
        for attempt in (
            lambda: lock.store.write(key, b"x"),
            lambda: lock.store.create(key, b"x"),
            lambda: lock.store.delete(key),
        ):
            with pytest.raises(StorageError) as caught:
                attempt()
            assert caught.value.uri == str(root / folder)
        lock.store.remove_leftovers(f"{folder}/")
        lock.store.delete_all(f"{folder}/")  # the link, not what it leads to
        assert not (root / folder).exists()
    assert (elsewhere / "part-000000.parquet").read_bytes() == b"precious"
    assert {path.name for path in elsewhere.rglob("*")} == {"x", "part-000000.parquet"}


def test_what_does_not_exist_is_deleted_silently(root: Path) -> None:
    with LocalStore(root).lock(KEY) as lock:
        for key in ("gone.json", "gone/part-000000.parquet"):
            lock.store.delete(key)
        for prefix in ("gone/", "gone/deeper/"):
            lock.store.delete_all(prefix)


def test_without_hard_links_a_file_is_created_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT and many mounts of other machines."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with LocalStore(root).lock(KEY) as lock:
        for store in (lock.store, LocalStore(root)):
            assert store.create(f"{id(store)}.json", b"one")
            assert not store.create(f"{id(store)}.json", b"two")
            assert store.read(f"{id(store)}.json") == b"one"
    assert not list(root.glob("*raycap-tmp"))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_with_a_remedy(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    attempts: list[Callable[[], object]] = [
        LocalStore(root).lock(KEY).__enter__,
        lambda: check_locks(root),
        lambda: check_single_writer(LocalStore(root)),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError) as caught:
            attempt()
        assert caught.value.uri == str(root)
    assert [path.name for path in root.iterdir()] == [KEY]


def test_a_check_for_locks_leaves_nothing(root: Path) -> None:
    check_locks(root)  # which is created
    with LocalStore(root).lock(KEY):
        check_single_writer(LocalStore(root))  # also beside a run
        assert [path.name for path in root.iterdir()] == [KEY]


def test_a_folder_that_cannot_be_written_is_named_by_the_check_for_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError) as caught:
        check_locks(tmp_path / "file" / "out")
    assert caught.value.uri == str(tmp_path / "file" / "out")


class _Heedless:
    """A store that ignores the conditions of conditional writes."""

    def __init__(self, store: FenceableStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        del version
        self._store.write(key, data)
        return "written"


def test_a_store_of_objects_is_tried_with_two_writes_that_it_must_refuse() -> None:
    store = open_store("memory://single-writer/out", StorageConfig())
    assert isinstance(store, FenceableStore)
    check_single_writer(store)
    heedless = _Heedless(store)
    with pytest.raises(ConfigError) as caught:
        check_conditional_writes(heedless)
    assert caught.value.uri == store.uri
    assert [key for page in store.list() for key in page["key"].to_pylist()] == []


def test_where_folders_cannot_be_locked_the_file_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS."""
    real = fcntl.flock

    def only_files(handle: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", only_files)
    with LocalStore(root).lock(KEY) as lock:
        with pytest.raises(RunConflict):
            LocalStore(root).lock(KEY).__enter__()
        lock.store.write("x", b"x")


def test_workers_write_only_while_their_driver_holds_the_folder(root: Path) -> None:
    store = LocalStore(root)
    with store.lock(KEY) as lock:
        worker = store.witnessed(KEY, lock.token)
        worker.write("checkpoints/checkpoint.json", b"1")
    with store.lock(KEY), pytest.raises(RunConflict):
        worker.write("checkpoints/checkpoint.json", b"2")
    assert store.read("checkpoints/checkpoint.json") == b"1"
