"""The heartbeat lock on S3: one writer, taken over only from the dead."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from raycap.config import StorageConfig
from raycap.errors import RunConflict
from raycap.storage.address import Address
from raycap.storage.base import WriteLock
from raycap.storage.lock import heartbeat_lock
from raycap.storage.s3 import S3Store
from tests.conftest import S3
from tests.support import faulty_http
from tests.support.faulty_http import FaultyServer, lost, refused, reset

CONFIG = StorageConfig(timeout_s=5, num_retries=1)
KEY = "lock.json"

server = faulty_http.faulty_s3  # a fixture, which pytest looks for under its name


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr("raycap.storage.lock.BEAT_S", 0.1)
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 1.2)
    return S3Store(Address.parse(f"s3://{s3.bucket}/out"), CONFIG)


def owner_of(store: S3Store) -> str:
    owner: str = json.loads(store.read(KEY))["owner"]
    return owner


def wait_until_lost(lock: WriteLock) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lock.check()
        time.sleep(0.05)


def test_a_second_writer_is_refused_while_the_first_lives(store: S3Store) -> None:
    with store.lock(KEY) as lock:
        for _ in range(2):
            with pytest.raises(RunConflict, match=rf"\b{os.getpid()}\b"):
                store.lock(KEY).__enter__()
        lock.check()
    with store.lock(KEY):
        pass
    assert json.loads(store.read(KEY)) == {"generation": 2, "released": True}


HOLDER = """
import sys
from raycap.config import StorageConfig
from raycap.storage.address import Address
from raycap.storage.s3 import S3Store
with S3Store(Address.parse(f"s3://{sys.argv[1]}/out"), StorageConfig()).lock("lock.json"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_holder_killed_on_this_machine_is_taken_over_at_once(
    s3: S3, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 60.0)
    command = [sys.executable, "-c", HOLDER, s3.bucket]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with store.lock(KEY) as lock:
        assert time.monotonic() - started < 5
        lock.check()


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_a_silent_holder_whose_process_cannot_be_seen_is_waited_for(
    store: S3Store, host: str
) -> None:
    pid = os.getpid() if host == socket.gethostname() else 2**22 + 1
    store.write(KEY, json.dumps({"owner": "other", "host": host, "pid": pid, "beat": 7}).encode())
    started = time.monotonic()
    with store.lock(KEY) as lock:
        assert 1.2 <= time.monotonic() - started < 10
        lock.check()


@pytest.mark.parametrize("content", [b"\xff", b'{"host": 3, "pid": "x"}'])
def test_an_unreadable_lock_is_an_unknown_writers(store: S3Store, content: bytes) -> None:
    store.write(KEY, content)
    with store.lock(KEY) as lock:
        lock.check()


def test_a_holder_that_was_taken_over_finds_out_and_leaves_the_lock(store: S3Store) -> None:
    other = json.dumps({"owner": "other", "host": "elsewhere", "pid": 1, "beat": 0}).encode()
    with store.lock(KEY) as lock:
        store.write(KEY, other)
        with pytest.raises(RunConflict) as caught:
            wait_until_lost(lock)
        assert caught.value.uri == store.uri
    assert owner_of(store) == "other"


def test_a_holder_whose_lock_was_deleted_finds_out(store: S3Store) -> None:
    with store.lock(KEY) as lock:
        store.delete(KEY)
        with pytest.raises(RunConflict) as caught:
            wait_until_lost(lock)
        assert caught.value.uri == store.uri


def test_of_several_that_take_over_exactly_one_does(store: S3Store) -> None:
    dead = json.dumps({"owner": "dead", "host": "elsewhere", "pid": 1, "beat": 7})
    store.write(KEY, dead.encode())
    ready, done = Barrier(4), Barrier(4)

    def take(_: int) -> bool:
        ready.wait()
        try:
            with store.lock(KEY) as lock:
                done.wait()
                lock.check()
                return True
        except RunConflict:
            done.wait()
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4))) == [False, False, False, True]


def test_an_outage_shorter_than_death_is_outlived(server: FaultyServer, store: S3Store) -> None:
    with store.lock(KEY) as lock:
        for fault in (reset, refused(503, "SlowDown"), lost):
            server.faults.extend([fault] * 3)
            while server.faults:
                time.sleep(0.05)
        time.sleep(0.5)
        beat = json.loads(store.read(KEY))["beat"]
        time.sleep(1.0)
        assert json.loads(store.read(KEY))["beat"] > beat
        lock.check()


def test_a_lock_whose_answer_was_lost_is_held_at_once(
    server: FaultyServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycap.storage.lock.DEAD_AFTER_S", 60.0)
    server.faults.append(lost)
    started = time.monotonic()
    with store.lock(KEY) as lock:
        assert time.monotonic() - started < 30  # it is not waited for, as another's would be
        lock.check()


def test_a_lock_that_cannot_be_released_fails_no_run(server: FaultyServer, store: S3Store) -> None:
    with heartbeat_lock(store, KEY) as lock:
        time.sleep(0.3)
        server.faults.extend([refused(500)] * 20)
    lock.check()
    server.faults.clear()
    assert owner_of(store)
