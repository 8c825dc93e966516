"""Stores of fsspec: in memory, of this machine, failing, and missing."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raycap.config import StorageConfig
from raycap.errors import (
    ConfigError,
    ErrorCode,
    ObjectNotFound,
    RunConflict,
    StorageError,
    TransientError,
)
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.lock import describe
from raycap.storage.stores import ImageReader, open_store

CONFIG = StorageConfig(timeout_s=1, num_retries=1)


@pytest.fixture(params=["memory", "local"])
def store(request: Any, tmp_path: Path) -> Iterator[Store]:
    root = str(tmp_path) if request.param == "local" else "/bucket/prefix"
    yield open_store(f"{request.param}://{root}", CONFIG)
    fsspec.filesystem("memory").rm("/", recursive=True)


def keys_of(store: Store, prefix: str = "") -> list[str]:
    return [key for table in store.list(prefix) for key in table["key"].to_pylist()]


def test_an_object_is_written_replaced_read_and_deleted(store: Store) -> None:
    store.write("x/a.json", b"one")
    store.write("x/a.json", b"0123456789")
    assert store.read("x/a.json") == b"0123456789"
    assert store.exists("x/a.json")
    assert not store.exists("x")
    assert store.read_tail("x/a.json", 3) == b"789"
    assert store.read_tail("x/a.json", 100) == b"0123456789"
    assert ImageReader(CONFIG).read(store.address("x/a.json"), 4) == b"01234"
    assert ImageReader(CONFIG).read(store.address("x/a.json"), 400) == b"0123456789"
    store.delete("x/a.json")
    store.delete("x/a.json")
    assert not store.exists("x/a.json")
    for read in (store.read, lambda key: store.read_tail(key, 3)):
        with pytest.raises(ObjectNotFound) as caught:
            read("x/a.json")
        assert caught.value.uri == store.address("x/a.json")
    with pytest.raises(ObjectNotFound):
        ImageReader(CONFIG).read(store.address("x/a.json"), 10)


def test_an_object_is_created_once(store: Store) -> None:
    assert store.create("run.json", b"one")
    assert not store.create("run.json", b"two")
    assert store.read("run.json") == b"one"


def test_a_file_is_uploaded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"new")
    store.upload("x/a", tmp_path / "made")
    assert store.read("x/a") == b"new"


def test_keys_come_in_byte_order(store: Store) -> None:
    keys = ["a-b", "a.jpg", "a/x", "a0", "ab/y", "B", "é", "照.jpg", "😀", "~"]
    for key in keys:
        store.write(key, key.encode())
    assert keys_of(store) == sorted(keys, key=str.encode)
    assert keys_of(store, "a/") == ["a/x"]
    assert keys_of(store, "none/") == []
    sizes = [size for table in store.list() for size in table["size_bytes"].to_pylist()]
    assert sizes == [len(key.encode()) for key in keys_of(store)]


def test_a_changed_object_has_another_version(store: Store) -> None:
    store.write("a", b"one")
    before = [table["etag"].to_pylist() for table in store.list()]
    store.write("a", b"two")
    assert [table["etag"].to_pylist() for table in store.list()] != before


def test_the_lock_keeps_a_second_writer_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycap.storage.lock.BEAT_S", 0.05)
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 2.0)
    with store.lock("lock.json") as lock:
        with pytest.raises(RunConflict) as caught:
            store.lock("lock.json").__enter__()
        assert caught.value.uri == store.uri
        lock.check()
    if not isinstance(store, LocalStore):
        assert describe(store.read("lock.json")) == {"generation": 1, "released": True}


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Fails as network file systems do."""

    protocol = "failing"
    faults: list[Exception] = []  # noqa: RUF012  the faults of the next calls

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> Any:
        if self.faults:
            raise self.faults.pop(0)
        return super().cat_file(path, start, end)


def test_faults_are_tried_again_and_told() -> None:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    store = open_store("failing://bucket", CONFIG)
    reader = ImageReader(CONFIG)
    store.write("a", b"data")
    for error, code in (
        (fsspec.exceptions.FSTimeoutError(), ErrorCode.TIMEOUT),
        (ConnectionResetError("reset by peer"), ErrorCode.NETWORK),
    ):
        FailingFileSystem.faults[:] = [error]
        assert reader.read(store.address("a"), 100) == b"data"
        FailingFileSystem.faults[:] = [error] * 2
        with pytest.raises(TransientError) as caught:
            store.read("a")
        assert caught.value.code == code
    FailingFileSystem.faults[:] = [PermissionError("not yours")]
    with pytest.raises(StorageError, match="not yours") as refused:
        store.read("a")
    assert refused.value.uri == "failing://bucket/a"


@pytest.mark.parametrize(
    ("scheme", "extra", "package"),
    [("gs", "gcs", "gcsfs"), ("az", "azure", "adlfs"), ("abfs", "azure", "adlfs")],
)
def test_a_missing_package_is_named_with_its_remedy(scheme: str, extra: str, package: str) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    for attempt in (
        lambda: open_store(f"{scheme}://bucket/x", CONFIG),
        lambda: ImageReader(CONFIG).read(f"{scheme}://bucket/x.jpg", 100),
    ):
        with pytest.raises(ConfigError, match=rf'"raycap\[{extra}\]"') as caught:
            attempt()
        assert caught.value.uri == f"{scheme}://"


def test_an_address_that_cannot_be_opened_is_a_wrong_setting() -> None:
    for address, named in (
        ("nosuch://bucket", "nosuch://"),
        ("zip://folder", "zip://"),
        ("https://me:secret@h/x?access_token=1", "https://h/x"),
        ("s3://", "s3://"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_store(address, CONFIG)
        assert caught.value.uri == named
