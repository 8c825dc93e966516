"""LocalStore: whole files or none, one winner, and a listing in key order."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.errors import ObjectNotFound, RunConflict, StorageError, TransientError
from raycap.storage.local import MAX_PATHS, LocalStore, display_path, etag_of
from raycap.storage.stores import ImageReader, open_store

READER = ImageReader(StorageConfig())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keys_of(store: LocalStore, prefix: str = "") -> list[str]:
    return [key for table in store.list(prefix) for key in table["key"].to_pylist()]


def fill(store: LocalStore, *keys: str) -> None:
    for key in keys:
        path = Path(store.address(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def test_a_file_is_written_replaced_read_and_deleted(store: LocalStore) -> None:
    store.write("x/a.json", b"one")
    store.write("x/a.json", b"two")
    assert store.read("x/a.json") == b"two"
    assert store.exists("x/a.json")
    assert not store.exists("x")
    assert keys_of(store) == ["x/a.json"]
    store.delete("x/a.json")
    store.delete("x/a.json")
    assert not store.exists("x/a.json")
    with pytest.raises(ObjectNotFound) as caught:
        store.read("x/a.json")
    assert caught.value.uri == store.address("x/a.json")


def test_a_file_is_moved_in_whole(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"new")
    store.write("x/a", b"old")
    store.upload("x/a", tmp_path / "made")
    assert store.read("x/a") == b"new"
    assert keys_of(store) == ["x/a"]


def test_an_empty_file_exists_and_a_name_that_no_file_can_have_does_not(store: LocalStore) -> None:
    store.write("empty", b"")
    assert store.exists("empty")
    assert not store.exists("x" * 300)
    assert not store.exists("empty/below")


def test_the_tail_is_at_most_the_whole_file(store: LocalStore) -> None:
    store.write("a", b"0123456789")
    store.write("empty", b"")
    assert store.read_tail("a", 3) == b"789"
    assert store.read_tail("a", 100) == b"0123456789"
    assert store.read_tail("empty", 100) == b""
    with pytest.raises(ObjectNotFound):
        store.read_tail("none", 1)


KILLED_WRITER = """
import os, sys
from pathlib import Path
from raycap.storage.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
os.fsync = lambda number: print("written", flush=True) or sys.stdin.read()
getattr(store, sys.argv[2])("captions/a", b"new" * 1_000_000)
"""


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_writer_killed_midway_leaves_the_old_content(store: LocalStore, method: str) -> None:
    if method == "write":
        store.write("captions/a", b"old")
    command = [sys.executable, "-c", KILLED_WRITER, store.uri, method]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    leftover = [key for key in keys_of(store) if key.endswith(".raycap-tmp")]
    assert len(leftover) == 1
    assert [key for key in keys_of(store) if key not in leftover] == (
        ["captions/a"] if method == "write" else []
    )
    if method == "write":
        assert store.read("captions/a") == b"old"
    store.remove_leftovers("manifest/")
    assert leftover[0] in keys_of(store)
    store.remove_leftovers("captions/")
    assert leftover[0] not in keys_of(store)


def create(root: Path, number: int) -> bool:
    time.sleep(0.05 - time.time() % 0.05)  # all at the same moment
    return LocalStore(root).create("run.json", str(number).encode())


def test_of_eight_processes_exactly_one_creates(store: LocalStore) -> None:
    root = Path(store.uri)
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as pool:
        won = list(pool.map(create, [root] * 8, range(8)))
    assert sum(won) == 1
    assert store.read("run.json") == str(won.index(True)).encode()
    assert keys_of(store) == ["run.json"]


def test_keys_come_in_byte_order(store: LocalStore) -> None:
    keys = ["a-b", "a.jpg", "a/x", "a0", "ab/y", "B", "é", "照.jpg", "\ufffd", "😀", "~", " x"]
    fill(store, *keys)
    assert keys_of(store) == sorted(keys, key=str.encode)
    assert keys_of(store, "a/") == ["a/x"]
    sizes = [size for table in store.list() for size in table["size_bytes"].to_pylist()]
    assert sizes == [len(key.encode()) for key in keys_of(store)]
    etags = [etag for table in store.list("a/") for etag in table["etag"].to_pylist()]
    assert etags == [etag_of(Path(store.address("a/x")).stat())]


NAME = st.text("ab-. 0é😀", min_size=1, max_size=3).filter(lambda n: n.strip(".") != "")


@settings(deadline=None, max_examples=50)
@given(st.sets(st.lists(NAME, min_size=1, max_size=3).map(tuple), max_size=15))
def test_any_tree_is_listed_in_byte_order(
    tmp_path_factory: pytest.TempPathFactory, names: set[tuple[str, ...]]
) -> None:
    files = {"/".join(n) for n in names if not any(m[: len(n)] == n and m != n for m in names)}
    store = LocalStore(tmp_path_factory.mktemp("tree"))
    fill(store, *files)
    assert keys_of(store) == sorted(files, key=str.encode)


def test_many_files_come_in_several_tables(store: LocalStore) -> None:
    fill(store, "0")
    for number in range(2500):
        os.link(store.address("0"), store.address(f"n{number:05d}"))
    assert len(list(store.list())) > 1
    assert len(keys_of(store)) == 2501


def test_a_folder_that_is_not_there_lists_nothing(store: LocalStore) -> None:
    assert keys_of(store) == []
    assert keys_of(store, "captions/") == []
    store.remove_leftovers("captions/")


def test_a_file_in_place_of_the_folder_is_told(store: LocalStore) -> None:
    Path(store.uri).write_bytes(b"")
    with pytest.raises(StorageError):
        keys_of(store)
    with pytest.raises(StorageError):
        store.write("x/a", b"")


def test_names_that_are_not_utf8_are_listed_and_read(store: LocalStore) -> None:
    odd = os.fsencode(store.uri) + b"/caf\xe9 1"
    os.makedirs(odd)
    for name in (b"\xff.jpg", b"100%25.jpg", b"a b.jpg"):
        with open(odd + b"/" + name, "wb") as file:
            file.write(name)
    keys = keys_of(store)
    assert keys == ["caf%E9%201/%FF.jpg", "caf%E9%201/100%25.jpg", "caf%E9%201/a b.jpg"]
    found = [READER.read(store.address(key), 100) for key in keys]
    assert found == [b"\xff.jpg", b"100%25.jpg", b"a b.jpg"]


def test_names_that_are_not_utf8_are_told_apart_from_names_that_look_so(store: LocalStore) -> None:
    root = os.fsencode(store.uri)
    for name in (b"a\xff.jpg", b"a%FF.jpg", b"d\xfe", b"d%FE"):
        path = os.path.join(root, name)
        if not name.endswith(b".jpg"):
            os.makedirs(path, exist_ok=True)
            path = os.path.join(path, b"x.jpg")
        os.makedirs(root, exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    keys = [key for table in store.list() for key in table["key"].to_pylist()]
    assert len(set(keys)) == 4
    assert keys == sorted(keys, key=str.encode)
    reader = ImageReader(StorageConfig())
    found = {reader.read(store.address(key), 100) for key in keys}
    assert found == {b"a\xff.jpg", b"a%FF.jpg", b"d\xfe", b"d%FE"}
    assert len({display_path(os.fsdecode(os.path.join(root, name))) for name in found}) == 4


@pytest.mark.parametrize(("there", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_either_form_of_its_accents(
    store: LocalStore, there: Literal["NFC", "NFD"], typed: Literal["NFC", "NFD"]
) -> None:
    name = "\u00e9t\u00e9/caf\u00e9.jpg"
    store.write(unicodedata.normalize(there, name), b"x")
    address = store.address(unicodedata.normalize(typed, name))
    assert ImageReader(StorageConfig()).read(address, 10) == b"x"
    store.write(unicodedata.normalize(typed, name), b"its own")
    assert ImageReader(StorageConfig()).read(address, 10) == b"its own"


def test_links_are_followed_but_no_loop_of_links(store: LocalStore, tmp_path: Path) -> None:
    fill(store, "a/b/x.jpg")
    root = Path(store.uri)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "y.jpg").write_bytes(b"")
    (outside / "back").symlink_to(root)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "b" / "self").symlink_to(".")
    (root / "nested").symlink_to(outside)
    (root / "z.jpg").symlink_to(root / "a" / "b" / "x.jpg")
    (root / "nowhere.jpg").symlink_to(root / "gone")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    os.mkfifo(root / "pipe.jpg")
    assert keys_of(store) == ["a/b/x.jpg", "nested/y.jpg", "z.jpg"]


def test_folders_that_link_to_each_other_many_times_are_listed_within_bounds(
    store: LocalStore,
) -> None:
    for level in range(9):
        fill(store, f"{level}/x.jpg")
    for level in range(8):
        for number in range(10):
            Path(store.address(f"{level}/to{number}")).symlink_to(store.address(f"{level + 1}"))
    left_out: Counter[str] = Counter()
    keys = [key for table in store.survey(left_out) for key in table["key"].to_pylist()]
    assert {f"{level}/x.jpg" for level in range(9)} <= set(keys)
    assert len(keys) <= 9 * (MAX_PATHS + 1)
    assert keys == sorted(set(keys))
    assert left_out["repeated folder"] > 0
    assert keys_of(store) == keys


def test_a_few_paths_to_one_folder_are_all_listed(store: LocalStore) -> None:
    fill(store, "real/x.jpg")
    for number in range(3):
        Path(store.address(f"link{number}")).symlink_to("real")
    assert keys_of(store) == ["link0/x.jpg", "link1/x.jpg", "link2/x.jpg", "real/x.jpg"]


def test_names_that_are_shown_the_same_have_keys_of_their_own(store: LocalStore) -> None:
    root = os.fsencode(store.uri)
    for folder in (b"d\xff", b"d%FF"):
        os.makedirs(root + b"/" + folder)
        (Path(os.fsdecode(root + b"/" + folder)) / "x.jpg").write_bytes(folder)
    for name in (b"a\xff.jpg", b"a%FF.jpg"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
    keys = keys_of(store)
    assert keys == sorted(set(keys))
    found = sorted(READER.read(store.address(key), 100) for key in keys)
    assert found == [b"a%FF.jpg", b"a\xff.jpg", b"d%FF", b"d\xff"]


SURVEYED = """
import os, sys
from collections import Counter
from pathlib import Path
from raycap.config import StorageConfig
from raycap.errors import ObjectForbidden
from raycap.storage.local import LocalStore
from raycap.storage.stores import ImageReader
os.getuid() or os.seteuid(65534)
store, left_out = LocalStore(Path(sys.argv[1])), Counter()
print([key for table in store.survey(left_out) for key in table["key"].to_pylist()])
print(dict(left_out))
try:
    ImageReader(StorageConfig()).read(store.address("b.jpg"), 10)
except ObjectForbidden as error:
    print(error.code)
"""


def test_what_may_not_be_read_does_not_end_a_survey(store: LocalStore, tmp_path: Path) -> None:
    fill(store, "a.jpg", "b.jpg", "lost+found/x", "z.jpg")
    for folder in (tmp_path, *tmp_path.parents):
        if folder == tmp_path or folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    Path(store.uri).chmod(0o755)
    closed = [Path(store.address(name)) for name in ("b.jpg", "lost+found")]
    for path in closed:
        path.chmod(0o000)
    try:
        command = [sys.executable, "-c", SURVEYED, store.uri]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        for path in closed:
            path.chmod(0o755)
    assert told.splitlines() == [
        "['a.jpg', 'b.jpg', 'z.jpg']", "{'unreadable folder': 1}", "forbidden"
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["{0}/pipe", "/dev/zero", "/dev/null"])
def test_what_is_no_regular_file_is_not_waited_for(store: LocalStore, address: str) -> None:
    fill(store, "x")
    os.mkfifo(store.address("pipe"))
    path = address.format(store.uri)
    reads: list[Callable[[], object]] = [
        lambda: READER.read(path, 100),
        lambda: READER.read_range(path, 0, 100),
    ]
    for read in reads:
        with pytest.raises(ObjectNotFound, match=r" (pipe|device)") as caught:
            read()
        assert caught.value.uri == path


def test_a_file_shorter_than_listed_is_transient(store: LocalStore) -> None:
    store.write("a", b"12345")
    with pytest.raises(TransientError):
        READER.read(store.address("a"), 100, 6)
    assert READER.read(store.address("a"), 100, 5) == b"12345"


FORBIDDEN = """
import os, sys
from pathlib import Path
from raycap.errors import StorageError
from raycap.storage.local import LocalStore
os.getuid() or os.seteuid(65534)
store = LocalStore(Path(sys.argv[1]))
for attempt in (
    lambda: list(store.list()), lambda: list(store.list("a/")), lambda: store.read("a/x"),
    lambda: store.read_tail("a/x", 9), lambda: store.write("b", b""),
    lambda: store.create("b", b""), lambda: store.lock("lock").__enter__(),
):
    try:
        attempt()
    except StorageError as error:
        print(error)
"""


def test_a_forbidden_folder_is_told_in_one_line(store: LocalStore, tmp_path: Path) -> None:
    fill(store, "a/x")
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    Path(store.address("a")).chmod(0o000)
    Path(store.uri).chmod(0o555)
    try:
        command = [sys.executable, "-c", FORBIDDEN, store.uri]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        Path(store.uri).chmod(0o755)
        Path(store.address("a")).chmod(0o755)
    assert told.count("Permission denied") == 7, told
    assert len(told.splitlines()) == 7
    assert all(line.startswith(store.uri) for line in told.splitlines())


@pytest.mark.parametrize("name", ["none.jpg", "folder", "folder/none", "file/none", "nul\0byte"])
def test_what_is_no_file_is_not_found(store: LocalStore, name: str) -> None:
    fill(store, "file", "folder/x")
    with pytest.raises(ObjectNotFound):
        READER.read(f"{store.uri}/{name}", 100)


def test_a_file_is_read_no_further_than_one_byte_beyond_the_limit(store: LocalStore) -> None:
    store.write("a", b"0123456789")
    assert READER.read(store.address("a"), 10) == b"0123456789"
    assert READER.read(f"file://{store.address('a')}", 4) == b"01234"


def test_a_second_writer_is_refused_while_the_first_holds_the_lock(store: LocalStore) -> None:
    with store.lock("lock.json") as lock:
        lock.check()
        with pytest.raises(RunConflict, match=rf"\b{os.getpid()}\b") as caught:
            store.lock("lock.json").__enter__()
        assert caught.value.uri == store.uri
    with store.lock("lock.json"):
        assert json.loads(store.read("lock.json"))["pid"] == os.getpid()


HOLDER = """
import sys
from pathlib import Path
from raycap.storage.local import LocalStore
with LocalStore(Path(sys.argv[1])).lock("lock.json"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_ends_with_its_process(store: LocalStore) -> None:
    command = [sys.executable, "-c", HOLDER, store.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunConflict, match=str(holder.pid)):
            store.lock("lock.json").__enter__()
        holder.send_signal(signal.SIGKILL)
    with store.lock("lock.json"):
        pass


def test_addresses_open_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for address in ("x", "./x/", str(tmp_path / "x"), f"file://{tmp_path}/x", "~/x"):
        assert open_store(address, StorageConfig()).uri == str(tmp_path / "x")


def test_modes_of_files_follow_the_umask(store: LocalStore, tmp_path: Path) -> None:
    file = tmp_path / "made"
    before = os.umask(0o027)
    try:
        file.write_bytes(b"x")
        store.write("written", b"x")
        store.create("created", b"x")
        store.upload("uploaded", file)
        with store.lock("lock.json"):
            pass
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in Path(store.uri).iterdir()}
    assert modes == dict.fromkeys(("written", "created", "uploaded", "lock.json"), 0o640)


def test_no_link_that_another_has_put_there_is_written_through(
    store: LocalStore, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("dear")
    Path(store.uri).mkdir()
    for name in ("lock.json", "a", "b"):
        Path(store.address(name)).symlink_to(other)
    store.write("a", b"x")
    assert store.create("b", b"x") is False
    with pytest.raises(StorageError) as caught, store.lock("lock.json"):
        pass
    assert caught.value.uri == store.address("lock.json")
    assert other.read_text() == "dear"
    assert store.read("a") == b"x"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_destination_of_an_upload(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(source: Path, to: str, **_: int) -> None:
        # The operating system names both files, the source first.
        raise OSError(code, os.strerror(code), str(source), None, to)

    monkeypatch.setattr("os.rename", rename)
    (tmp_path / "made").write_bytes(b"x")
    store = LocalStore(tmp_path / "out")
    with pytest.raises(StorageError) as caught:
        store.upload("a/b", tmp_path / "made")
    assert caught.value.uri == str(tmp_path / "out" / "a" / "b")
    assert "made" not in str(caught.value)
