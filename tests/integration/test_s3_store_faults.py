"""S3Store when the way to the bucket fails: what is tried again, and what is told."""

import gzip
import re
import time
from collections.abc import Callable, Iterator

import pytest

from raycap.config import StorageConfig
from raycap.errors import (
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage.address import Address
from raycap.storage.s3 import S3Store
from raycap.storage.stores import ImageReader
from tests.conftest import S3, free_port
from tests.support import faulty_http
from tests.support.faulty_http import (
    Fault,
    FaultyServer,
    Handler,
    Reply,
    TrueReply,
    cut_short,
    dripping,
    faulty_server,
    garbled,
    refused,
    reset,
    stalled,
    stalled_midway,
    truncated,
)

PATIENT = StorageConfig(timeout_s=30, num_retries=1)
DATA = bytes(range(256)) * 100


config = faulty_http.patience  # a fixture, which pytest looks for under its name


@pytest.fixture
def server(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with faulty_server(s3.endpoint) as server:
        s3.put("p/a.jpg", DATA)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.fixture
def store(s3: S3, server: FaultyServer, config: StorageConfig) -> S3Store:
    del server
    return S3Store(Address.parse(f"s3://{s3.bucket}/p"), config)


FAULTS = {
    "slow down": (refused(503, "SlowDown"), ErrorCode.THROTTLED),
    "503 without a word": (refused(503), ErrorCode.THROTTLED),
    "429": (refused(429, "TooManyRequests"), ErrorCode.THROTTLED),
    "an internal error": (refused(500, "InternalError"), ErrorCode.SERVER_ERROR),
    "a bad gateway": (refused(502), ErrorCode.SERVER_ERROR),
    "a gateway's time-out": (refused(504), ErrorCode.TIMEOUT),
    "a request's time-out": (refused(400, "RequestTimeout"), ErrorCode.TIMEOUT),
    "a broken connection": (reset, ErrorCode.NETWORK),
    "silence": (stalled, ErrorCode.TIMEOUT),
}
BODY_FAULTS = {
    "half a body": (truncated, ErrorCode.NETWORK),
    "silence after half a body": (stalled_midway, ErrorCode.TIMEOUT),
}


@pytest.mark.parametrize(
    ("fault", "code"), {**FAULTS, **BODY_FAULTS}.values(), ids=[*FAULTS, *BODY_FAULTS]
)
def test_reading_is_tried_again_as_often_as_configured(
    s3: S3, server: FaultyServer, store: S3Store, fault: Fault, code: ErrorCode
) -> None:
    server.faults.extend([fault] * 2)
    with pytest.raises(TransientError) as caught:
        store.read("a.jpg")
    assert caught.value.code == code
    assert str(caught.value).startswith(f"s3://{s3.bucket}/p/a.jpg: ")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 2
    server.faults.append(fault)
    assert store.read("a.jpg") == DATA


@pytest.mark.parametrize("fault", [fault for fault, _ in BODY_FAULTS.values()], ids=BODY_FAULTS)
def test_half_an_image_is_never_taken_for_a_whole_one(
    server: FaultyServer, store: S3Store, config: StorageConfig, fault: Fault
) -> None:
    reader = ImageReader(config)
    server.faults.append(fault)
    assert reader.read(store.address("a.jpg"), 1_000_000) == DATA
    server.faults.append(fault)
    assert store.read_tail("a.jpg", 1000) == DATA[-1000:]
    server.faults.append(fault)
    assert store.read_versioned("a.jpg")[0] == DATA


@pytest.mark.parametrize("fault", [refused(503, "SlowDown"), refused(500), reset, stalled])
def test_writing_is_tried_again(server: FaultyServer, store: S3Store, fault: Fault) -> None:
    server.faults.append(fault)
    store.write("b.jpg", b"new")
    server.faults.append(fault)
    assert store.create("c.jpg", b"new")
    server.faults.append(fault)
    store.delete("a.jpg")
    assert [key for table in store.list() for key in table["key"].to_pylist()] == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    "fault", [refused(503, "SlowDown"), reset, truncated, stalled_midway, garbled]
)
def test_listing_is_tried_again(server: FaultyServer, store: S3Store, fault: Fault) -> None:
    server.faults.append(fault)
    assert next(store.list())["key"].to_pylist() == ["a.jpg"]
    server.faults.extend([fault] * 2)
    with pytest.raises(TransientError):
        list(store.list())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refused(403, "AccessDenied"), "storage.anonymous=true"),
        (refused(403), "storage.anonymous=true"),
        (refused(403, "InvalidAccessKeyId"), "access key"),
        (refused(403, "SignatureDoesNotMatch"), "secret key"),
        (refused(400, "ExpiredToken"), "session token"),
        (refused(403, "RequestTimeTooSkewed"), "clock"),
        (refused(404, "NoSuchBucket"), "bucket"),
        (refused(501, "NotImplemented"), "request"),
        (refused(400, "Odd"), r"HTTP 400 \(Odd: It is so\.\)"),
    ],
)
def test_a_refusal_is_told_at_once_in_one_line(
    server: FaultyServer, store: S3Store, fault: Fault, words: str
) -> None:
    for attempt in (lambda: store.read("a.jpg"), lambda: list(store.list())):
        server.requests.clear()
        server.faults.append(fault)
        with pytest.raises(StorageError, match=words) as caught:
            attempt()
        assert not isinstance(caught.value, TransientError | ObjectNotFound)
        assert "\n" not in str(caught.value)
        assert len(server.requests) == 1


FORBIDDEN = {
    "by its ACL or policy": refused(403, "AccessDenied"),
    "without a word": refused(403),
    "its key in KMS is disabled": refused(400, "KMS.DisabledException"),
    "a customer's key is not given": refused(400, "InvalidRequest"),
    "archived": refused(403, "InvalidObjectState"),
    "odd": refused(400, "Odd"),
}


@pytest.mark.parametrize("fault", FORBIDDEN.values(), ids=FORBIDDEN)
def test_an_object_that_is_refused_concerns_this_image_alone(
    server: FaultyServer, store: S3Store, fault: Fault
) -> None:
    reader, uri = ImageReader(PATIENT), store.address("a.jpg")
    attempts: list[Callable[[], bytes]] = [
        lambda: reader.read(uri, 10**6),
        lambda: reader.read_range(uri, 0, 10),
    ]
    for attempt in attempts:
        server.requests.clear()
        server.faults.append(fault)
        with pytest.raises(ObjectForbidden) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"]
)
def test_wrong_credentials_concern_all_images(
    server: FaultyServer, store: S3Store, code: str
) -> None:
    server.faults.append(refused(403, code))
    with pytest.raises(StorageError) as caught:
        ImageReader(PATIENT).read(store.address("a.jpg"), 10**6)
    assert type(caught.value) is StorageError


def test_an_image_cut_short_without_a_sign_is_read_again(
    server: FaultyServer, store: S3Store
) -> None:
    reader, uri = ImageReader(PATIENT), store.address("a.jpg")
    server.faults.append(cut_short)
    assert reader.read(uri, 10**6, len(DATA)) == DATA
    server.faults.extend([cut_short] * 2)
    with pytest.raises(TransientError) as caught:
        reader.read(uri, 10**6, len(DATA))
    assert caught.value.code is ErrorCode.NETWORK
    assert len(reader.read(uri, 100, len(DATA))) == 101


def test_an_object_stored_compressed_is_decoded(s3: S3, store: S3Store) -> None:
    body = gzip.compress(DATA)
    s3.client.put_object(Bucket=s3.bucket, Key="p/z.jpg", Body=body, ContentEncoding="gzip")
    assert ImageReader(PATIENT).read(store.address("z.jpg"), 10**6, len(body)) == DATA


def test_an_object_that_drips_ends_at_the_limit_for_a_whole_image(
    server: FaultyServer, store: S3Store
) -> None:
    reader = ImageReader(StorageConfig(timeout_s=5, num_retries=3, image_timeout_s=0.5))
    server.faults.append(dripping)
    with pytest.raises(TransientError) as caught:
        reader.read(store.address("a.jpg"), 10**6)
    assert caught.value.code is ErrorCode.TIMEOUT


def test_a_store_that_asks_to_wait_is_asked_again_then(
    server: FaultyServer, store: S3Store
) -> None:
    def busy(handler: Handler, reply: TrueReply) -> None:
        del reply
        handler.send(Reply(status=503, headers={"Retry-After": "1"}))

    server.faults.append(busy)
    started = time.monotonic()
    assert store.read("a.jpg") == DATA
    assert time.monotonic() - started >= 1


def test_a_listing_without_versions_or_sizes_is_read(server: FaultyServer, store: S3Store) -> None:
    def bare(handler: Handler, reply: TrueReply) -> None:
        found = reply()
        body = re.sub(rb"<(ETag|Size)>.*?</\1>", b"", found.body)
        headers = {k: v for k, v in found.headers.items() if k.lower() != "content-length"}
        handler.send(Reply(status=found.status, body=body, headers=headers))

    server.rule = lambda _: bare
    (table,) = store.list()
    assert table.to_pylist() == [{"key": "a.jpg", "size_bytes": None, "etag": None}]


@pytest.mark.parametrize("num_retries", [0, 3])
def test_as_many_retries_are_made_as_configured(
    server: FaultyServer, s3: S3, num_retries: int
) -> None:
    server.faults.extend([refused(503)] * 9)
    config = StorageConfig(timeout_s=30, num_retries=num_retries)
    with pytest.raises(TransientError) as caught:
        S3Store(Address.parse(f"s3://{s3.bucket}/p"), config).read("a.jpg")
    assert caught.value.code == ErrorCode.THROTTLED
    assert len(server.requests) == num_retries + 1


def test_a_missing_image_is_asked_for_once(server: FaultyServer, store: S3Store) -> None:
    with pytest.raises(ObjectNotFound):
        store.read("none.jpg")
    assert len(server.requests) == 1


def test_nobody_listening_is_tried_again_and_told(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError) as caught:
        S3Store(Address.parse(f"s3://{s3.bucket}/p"), PATIENT).read("a")
    assert caught.value.code == ErrorCode.NETWORK


def test_missing_credentials_are_told_at_once(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError) as caught:
        S3Store(Address.parse(f"s3://{s3.bucket}/p"), PATIENT).read("a")
    assert caught.value.setting == "storage.anonymous"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="nobody"):
        S3Store(Address.parse(f"s3://{s3.bucket}/p"), PATIENT)


def test_anonymous_requests_are_not_signed(server: FaultyServer, s3: S3) -> None:
    anonymous = StorageConfig(timeout_s=30, num_retries=0, anonymous=True)
    s3.client.put_object_acl(Bucket=s3.bucket, Key="p/a.jpg", ACL="public-read")
    assert ImageReader(anonymous).read(f"s3://{s3.bucket}/p/a.jpg", 10**6) == DATA
    assert "Authorization" not in server.requests[-1][2]


def test_a_connection_is_used_again(server: FaultyServer, store: S3Store) -> None:
    reader = ImageReader(PATIENT)
    for _ in range(10):
        assert reader.read(store.address("a.jpg"), 10**6) == DATA
    assert server.num_connections == 1
