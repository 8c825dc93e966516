"""The fence of an output on S3: a writer that was taken over changes nothing any more.

A writer that is stopped cannot beat: here its heartbeat is so slow that it never does, while it
believes that its lock is fresh. So it is the store's conditions alone that keep it out.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pyarrow as pa
import pytest

from raycap.captioning.parts import MANIFEST
from raycap.captioning.plan import extend_plan, read_plan, record_plan
from raycap.config import StorageConfig
from raycap.errors import ConfigError, RunConflict, StorageError
from raycap.schema import MANIFEST as MANIFEST_SCHEMA
from raycap.storage.address import Address
from raycap.storage.base import HeldLock, Store
from raycap.storage.lock import check_conditional_writes
from raycap.storage.parts import list_parts
from raycap.storage.s3 import S3Store
from tests.conftest import S3
from tests.support import faulty_http
from tests.support.faulty_http import (
    Fault,
    FaultyServer,
    Handler,
    lost,
    stalled,
    truthful,
)

KEY = "lock.json"
CONFIG = StorageConfig(timeout_s=5, num_retries=1)

server = faulty_http.faulty_s3  # a fixture, which pytest looks for under its name

Take = Callable[[], HeldLock]


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr("raycap.storage.lock.BEAT_S", 60.0)
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 0.5)
    # Both writers are this process: that it lives says nothing here.
    monkeypatch.setattr("raycap.storage.lock.process_table", lambda: None)
    return S3Store(Address.parse(f"s3://{s3.bucket}/out"), CONFIG)


@pytest.fixture
def take(store: S3Store) -> Iterator[Take]:
    """Give `take()`, which takes the lock, from its silent holder if there is one."""
    with ExitStack() as held:
        yield lambda: held.enter_context(store.lock(KEY))


def confirmed(lock: HeldLock) -> HeldLock:
    """Let a writer ask for its lock, so that it believes in it for ten seconds."""
    lock.store.remove_leftovers("")
    return lock


def test_a_writer_that_was_taken_over_replaces_nothing(
    store: S3Store, take: Take, tmp_path: Path
) -> None:
    first = confirmed(take())
    for key in ("run.json", "manifest/part-000000.parquet", "weights"):
        first.store.write(key, b"of the first")
    second = take()
    for key in ("run.json", "manifest/part-000000.parquet", "weights", "captions/new"):
        second.store.write(key, b"of the second")
    file = tmp_path / "file"
    file.write_bytes(b"of the first, later")
    attempts: list[Callable[[], object]] = [
        lambda: first.store.write("run.json", b"later"),
        lambda: first.store.write("manifest/part-000000.parquet", b"later"),
        lambda: first.store.write("captions/new", b"later"),
        lambda: first.store.upload("weights", file),
        lambda: first.store.delete("run.json"),
        lambda: first.store.delete_all(MANIFEST),
        lambda: first.store.create("run.json", b"later"),
    ]
    for attempt in attempts:
        with pytest.raises(RunConflict) as caught:
            attempt()
        assert caught.value.uri == store.uri
    for key in ("run.json", "manifest/part-000000.parquet", "weights", "captions/new"):
        assert store.read(key) == b"of the second"


def test_what_a_late_write_created_is_replaced(store: S3Store, take: Take, tmp_path: Path) -> None:
    """It cannot be kept from creating what its successor has not written yet."""
    first = confirmed(take())
    second = take()
    file = tmp_path / "file"
    for key in ("summary.json", "captions/part-000000.parquet", "weights"):
        first.store.write(key, b"late")
    second.store.write("summary.json", b"of the second")
    second.store.write("captions/part-000000.parquet", b"of the second")
    file.write_bytes(b"of the second")
    second.store.upload("weights", file)
    for key in ("summary.json", "captions/part-000000.parquet", "weights"):
        assert store.read(key) == b"of the second"
    with pytest.raises(RunConflict):
        first.store.write("summary.json", b"later")


def test_a_large_file_is_uploaded_under_a_condition(
    server: FaultyServer, store: S3Store, take: Take, tmp_path: Path
) -> None:
    first = confirmed(take())
    file = tmp_path / "file"
    file.write_bytes(bytes(9_000_000))
    first.store.upload("weights", file)
    second = take()
    second.store.upload("weights", file)
    before = store.version("weights")
    file.write_bytes(bytes(9_000_001))
    with pytest.raises(RunConflict):
        first.store.upload("weights", file)
    assert not store.upload_if("weights", file, None)
    assert store.version("weights") == before
    assert store.size("weights") == 9_000_000
    completed = [
        {"If-Match", "If-None-Match"} & headers.keys()
        for command, path, headers in server.requests
        if command == "POST" and "uploadId=" in path
    ]
    assert completed[:3] == [{"If-None-Match"}, {"If-None-Match"}, {"If-Match"}]
    assert all(completed)


def test_a_released_lock_does_not_touch_that_of_the_successor(store: S3Store) -> None:
    with store.lock(KEY) as first, ExitStack() as later:
        confirmed(first)
        second = later.enter_context(store.lock(KEY))
        assert json.loads(store.read(KEY))["generation"] == 2
        keep = later.pop_all()
    assert json.loads(store.read(KEY))["owner"] == second.token
    second.store.write("x", b"still mine")
    keep.close()
    assert json.loads(store.read(KEY)) == {"generation": 2, "released": True}


def test_a_writer_without_a_fresh_heartbeat_asks_before_it_writes(
    store: S3Store, take: Take
) -> None:
    first = take()  # nothing was confirmed since it took the lock
    take()
    with pytest.raises(RunConflict):
        first.store.write("summary.json", b"late")
    assert not store.exists("summary.json")
    with pytest.raises(RunConflict):  # and knows from then on
        first.check()


def test_a_heartbeat_that_stalls_stops_the_writing(
    server: FaultyServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycap.storage.lock.BEAT_S", 0.1)
    monkeypatch.setattr("raycap.storage.lock.BEAT_TIMEOUT_S", 0.3)
    monkeypatch.setattr("raycap.storage.lock.FRESH_S", 0.3)

    def rule(handler: Handler) -> Fault:
        is_beat = handler.command == "PUT" and handler.path.endswith(KEY)
        return stalled if is_beat else truthful

    def write_on(first: HeldLock) -> None:
        for _ in range(1_000):
            first.store.write("captions/part-000000.parquet", b"x")

    with store.lock(KEY) as first:
        server.rule = rule
        with pytest.raises((RunConflict, StorageError)):
            write_on(first)
    server.rule = lambda _: truthful
    with store.lock(KEY) as second:
        second.store.write("summary.json", b"x")


def test_a_write_whose_answer_was_lost_is_written_again(
    server: FaultyServer, store: S3Store, take: Take
) -> None:
    lock = confirmed(take())
    server.faults.append(lost)
    lock.store.write("captions/part-000000.parquet", b"x")
    server.faults.append(lost)
    lock.store.write("progress.json", b"x")
    lock.store.write("progress.json", b"y")
    assert store.read("progress.json") == b"y"


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_refused(
    server: FaultyServer, store: S3Store, header: str
) -> None:
    def rule(handler: Handler) -> Fault:
        del handler.headers[header]
        return truthful

    server.rule = rule
    for attempt in (store.lock(KEY).__enter__, lambda: check_conditional_writes(store)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.uri == store.uri
        assert header in str(caught.value)
    server.rule = lambda _: truthful
    check_conditional_writes(store)
    assert [key for page in store.list() for key in page["key"].to_pylist()] == [KEY]


def test_a_process_of_another_container_is_not_known_to_be_dead(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same host name, and its process numbers are not ours."""
    store = S3Store(Address.parse(f"s3://{s3.bucket}/out"), CONFIG)
    monkeypatch.setattr("raycap.storage.lock.BEAT_S", 0.1)
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 2.0)
    with monkeypatch.context() as patch:
        patch.setattr("raycap.storage.lock.process_table", lambda: "boot pid:[1]")
        patch.setattr("raycap.storage.lock.os.getpid", lambda: 2**22 + 1)
        held: AbstractContextManager[HeldLock] = store.lock(KEY)
        lock = held.__enter__()
    assert json.loads(store.read(KEY))["host"] == socket.gethostname()
    with pytest.raises(RunConflict):
        store.lock(KEY).__enter__()
    lock.store.write("x", b"x")
    held.__exit__(None, None, None)
    assert os.getpid() != 2**22 + 1


def test_workers_write_only_while_their_driver_holds_the_lock(store: S3Store, take: Take) -> None:
    driver = take()
    worker = store.witnessed(KEY, driver.token)
    worker.write("checkpoints/checkpoint.json", b"1")
    worker.write("checkpoints/checkpoint.json", b"2")
    take()
    for key in ("checkpoints/checkpoint.json", "best/config.json"):
        with pytest.raises(RunConflict):
            worker.write(key, b"3")
    assert store.read("checkpoints/checkpoint.json") == b"2"
    assert not store.exists("best/config.json")


def listing(names: list[str], midway: Callable[[], object]) -> Iterator[pa.Table]:
    for number, name in enumerate(names):
        if number == len(names) // 2:
            midway()
        row = {"image_id": name, "uri": name, "size_bytes": 1, "etag": "e"}
        yield pa.Table.from_pylist([row], schema=MANIFEST_SCHEMA)


def test_a_planning_that_was_taken_over_in_the_middle_leaves_the_manifest_alone(
    store: S3Store, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case of a driver that was stopped while it wrote its manifest, part after part."""
    monkeypatch.setattr("raycap.captioning.plan._CHUNK_ROWS", 1)
    names = [f"{number:03d}" for number in range(12)]
    plans = {}

    def plan(where: Store, images: list[str], midway: Callable[[], object] = bool) -> None:
        found = extend_plan(where, listing(images, midway), part_size=1, num_threads=1)
        found.run = "digest"
        record_plan(where, found)
        plans[len(images)] = found

    first = confirmed(take())

    def successor() -> None:
        plan(take().store, sorted(["000a", *names]))

    with pytest.raises(RunConflict):
        plan(first.store, sorted([*names, "zzz"]), successor)
    found = read_plan(store, 1)
    assert found.num_images == found.num_parts == 13
    ids = [footer.first for footer in found.parts.values()]
    assert sorted(ids) == sorted(["000a", *names])
    assert set(list_parts(store, MANIFEST)) == set(found.parts)
