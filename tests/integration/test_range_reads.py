"""Reading a span of a file is the same on every store: folders, S3, fsspec's, the web."""

from collections.abc import Iterator
from io import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import Any

import fsspec
import pytest

from raycap.config import StorageConfig
from raycap.errors import ErrorCode, ObjectNotFound, StorageError, TransientError
from raycap.storage.base import Store
from raycap.storage.ranged import RangedFile
from raycap.storage.stores import ImageReader, open_store
from tests.conftest import S3
from tests.support.faulty_http import (
    FaultyServer,
    Handler,
    Reply,
    TrueReply,
    faulty_server,
    truncated,
)

CONFIG = StorageConfig(timeout_s=1, num_retries=1)
DATA = bytes(range(256)) * 4
SPANS = [(0, 1), (0, 1024), (5, 20), (1000, 24), (1020, 100), (1024, 1), (5000, 10)]


@pytest.fixture(params=["local", "s3", "memory"])
def store(request: Any, tmp_path: Path) -> Iterator[Store]:
    roots = {"local": str(tmp_path), "memory": "memory:///bucket"}
    root = roots.get(request.param)
    store = open_store(root or request.getfixturevalue("s3").uri, CONFIG)
    yield store
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_a_span_is_read_as_far_as_the_object_goes(store: Store) -> None:
    store.write("x/data", DATA)
    address = store.address("x/data")
    for start, num_bytes in SPANS:
        expected = DATA[start : start + num_bytes]
        assert store.read_range("x/data", start, num_bytes) == expected
        assert ImageReader(CONFIG).read_range(address, start, num_bytes) == expected
    assert ImageReader(CONFIG).read_range(address, 3, 0) == b""
    assert store.size("x/data") == 1024
    for read in (store.size, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(ObjectNotFound, match="x/other"):
            read("x/other")
    with pytest.raises(ObjectNotFound):
        ImageReader(CONFIG).read_range(store.address("x/other"), 0, 1)


def test_a_stored_object_is_a_file_to_seek_in(store: Store) -> None:
    store.write("data", DATA)
    file = RangedFile(store, "data", 1024)
    assert file.readable()
    assert file.seekable()
    assert file.read(3) == DATA[:3]
    assert file.seek(10, SEEK_CUR) == file.tell() == 13
    assert file.read(4) == DATA[13:17]
    file.seek(-8, SEEK_END)
    assert file.read() == DATA[-8:]
    assert file.read() == file.read(5) == b""
    file.seek(2000)
    assert file.read(1) == b""


def test_all_under_a_prefix_is_deleted_and_nothing_else(store: Store) -> None:
    keys = [f"work/{number % 3}/{number}" for number in range(250)]
    for key in [*keys, "workshop", "other/work/a"]:
        store.write(key, b"x")
    store.delete_all("work/")
    store.delete_all("work/")
    left = [key for page in store.list() for key in page["key"].to_pylist()]
    assert left == ["other/work/a", "workshop"]


def whole(handler: Handler, reply: TrueReply) -> None:
    """Answer as a server that knows no ranges."""
    handler.send(reply())


def ranged(handler: Handler, reply: TrueReply) -> None:
    """Answer with the range that was asked for."""
    first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
    body = reply().body
    if int(first) >= len(body):
        handler.send(Reply(status=416))
        return
    handler.send(Reply(status=206, body=body[int(first) : int(last) + 1]))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.pages["/a.tar"] = Reply(body=DATA)
        yield server


@pytest.mark.parametrize("answer", [whole, ranged])
def test_a_span_of_a_web_address_is_read_whether_or_not_the_server_knows_ranges(
    server: FaultyServer, answer: Any
) -> None:
    reader = ImageReader(CONFIG)
    for start, num_bytes in SPANS:
        server.faults.append(answer)
        found = reader.read_range(f"{server.url}/a.tar", start, num_bytes)
        assert found == DATA[start : start + num_bytes]
    with pytest.raises(ObjectNotFound, match="404"):
        reader.read_range(f"{server.url}/b.tar", 0, 1)


def test_a_broken_span_is_tried_again(server: FaultyServer) -> None:
    reader = ImageReader(CONFIG)
    server.faults.append(truncated)
    assert reader.read_range(f"{server.url}/a.tar", 1, 3) == DATA[1:4]
    server.faults.extend([truncated] * 2)
    with pytest.raises(TransientError) as caught:
        reader.read_range(f"{server.url}/a.tar", 600, 300)
    assert caught.value.code == ErrorCode.NETWORK


def test_a_deletion_that_s3_refuses_is_told(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("p/work/a")
    refusal = "<Error><Key>p/work/a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    body = f"<DeleteResult>{refusal}</DeleteResult>".encode()

    def refuse(handler: Handler, reply: TrueReply) -> None:
        handler.send(Reply(body=body) if handler.command == "POST" else reply())

    with faulty_server(s3.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.faults.extend([refuse] * 2)
        with pytest.raises(StorageError, match=r"p/work/a: .*\(AccessDenied\)"):
            open_store(f"{s3.uri}/p", CONFIG).delete_all("work/")
