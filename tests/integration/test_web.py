"""Web addresses: what a server does wrong, and what becomes of it."""

import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from raycap.config import StorageConfig
from raycap.errors import (
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage.stores import ImageReader
from tests.conftest import free_port
from tests.support import faulty_http
from tests.support.faulty_http import (
    Fault,
    FaultyServer,
    Handler,
    Reply,
    TrueReply,
    dripping,
    faulty_server,
    refused,
    reset,
    stalled,
    stalled_midway,
    truncated,
)

IMAGE = bytes(range(256)) * 100
MAX_BYTES = 1_000_000


config = faulty_http.patience  # a fixture, which pytest looks for under its name


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.pages["/a.jpg"] = Reply(body=IMAGE)
        yield server


@pytest.fixture
def reader(config: StorageConfig) -> ImageReader:
    return ImageReader(config)


FAULTS = {
    "throttled by 503": (refused(503), ErrorCode.THROTTLED),
    "throttled by 429": (refused(429), ErrorCode.THROTTLED),
    "a server error": (refused(500), ErrorCode.SERVER_ERROR),
    "a bad gateway": (refused(502), ErrorCode.SERVER_ERROR),
    "a gateway's time-out": (refused(504), ErrorCode.TIMEOUT),
    "a broken connection": (reset, ErrorCode.NETWORK),
    "half a body": (truncated, ErrorCode.NETWORK),
    "silence": (stalled, ErrorCode.TIMEOUT),
    "silence after half a body": (stalled_midway, ErrorCode.TIMEOUT),
}


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_tried_again_as_often_as_configured(
    server: FaultyServer, reader: ImageReader, fault: Fault, code: ErrorCode
) -> None:
    server.faults.extend([fault] * 2)
    with pytest.raises(TransientError) as caught:
        reader.read(f"{server.url}/a.jpg", MAX_BYTES)
    assert caught.value.code == code
    assert len(server.requests) == 2
    assert f"{server.url}/a.jpg" in str(caught.value)
    server.faults.append(fault)
    assert reader.read(f"{server.url}/a.jpg", MAX_BYTES) == IMAGE


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ObjectNotFound), (404, ObjectNotFound), (410, ObjectNotFound),
        (401, ObjectForbidden), (403, ObjectForbidden), (451, ObjectForbidden),
    ],
)  # fmt: skip
def test_a_refusal_is_final(
    server: FaultyServer, reader: ImageReader, status: int, kind: type[StorageError]
) -> None:
    server.faults.append(refused(status))
    with pytest.raises(kind, match=f"HTTP {status}"):
        reader.read(f"{server.url}/a.jpg", MAX_BYTES)
    assert len(server.requests) == 1


EXPIRED = {
    "AWS and S3": (403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message>"),
    "Google": (400, "<Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message>"),
    "Azure": (
        403,
        "<Error><Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Signature not valid in "
        "the specified time frame: Start [..] - Expiry [..] - Current [..]",
    ),
    "a CDN": (403, "URL signature expired"),
}


@pytest.mark.parametrize(("status", "body"), EXPIRED.values(), ids=EXPIRED)
def test_an_expired_signature_is_transient_and_not_retried_at_once(
    server: FaultyServer, reader: ImageReader, status: int, body: str
) -> None:
    server.pages["/signed.jpg?sig=abc123"] = Reply(status=status, body=body.encode())
    with pytest.raises(TransientError) as caught:
        reader.read(f"{server.url}/signed.jpg?sig=abc123", MAX_BYTES)
    assert caught.value.code is ErrorCode.EXPIRED
    assert "abc123" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("query", "is_over"),
    [
        ("X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=a", True),
        ("X-Goog-Date=20200101T000000Z&X-Goog-Expires=60&X-Goog-Signature=a", True),
        ("se=2020-01-01T00%3A00%3A00Z&sig=a", True),
        ("Expires=1577836800&Signature=a&Key-Pair-Id=b", True),
        ("X-Amz-Date=20990101T000000Z&X-Amz-Expires=60&X-Amz-Signature=a", False),
        ("Expires=4102444800&Signature=a", False),
        ("Expires=soon&Signature=a", False),
        ("expires=1577836800", False),
    ],
)
def test_an_address_says_itself_when_its_signature_is_over(
    server: FaultyServer, reader: ImageReader, query: str, is_over: bool
) -> None:
    server.faults.append(refused(403, "AccessDenied"))
    with pytest.raises((TransientError, ObjectForbidden)) as caught:
        reader.read(f"{server.url}/a.jpg?{query}", MAX_BYTES)
    assert isinstance(caught.value, TransientError | ObjectForbidden)
    assert caught.value.code is (ErrorCode.EXPIRED if is_over else ErrorCode.FORBIDDEN)


def test_an_image_that_drips_ends_at_the_limit_for_a_whole_image(server: FaultyServer) -> None:
    reader = ImageReader(StorageConfig(timeout_s=5, num_retries=3, image_timeout_s=0.5))
    server.faults.extend([dripping] * 4)
    started = time.monotonic()
    with pytest.raises(TransientError) as caught:
        reader.read(f"{server.url}/a.jpg", MAX_BYTES)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert time.monotonic() - started < 4
    server.faults.clear()
    assert reader.read(f"{server.url}/a.jpg", MAX_BYTES) == IMAGE


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_server_is_asked_again_when_it_says(
    server: FaultyServer, reader: ImageReader, status: int
) -> None:
    def busy(handler: Handler, reply: TrueReply) -> None:
        del reply
        handler.send(Reply(status=status, headers={"Retry-After": "1"}))

    server.faults.append(busy)
    started = time.monotonic()
    assert reader.read(f"{server.url}/a.jpg", MAX_BYTES) == IMAGE
    assert time.monotonic() - started >= 1


def test_a_proxy_of_the_environment_is_used_also_after_a_redirect(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.pages["http://images.example/a.jpg"] = Reply(body=IMAGE)
    server.pages["/here"] = Reply(status=302, headers={"Location": "http://images.example/a.jpg"})
    server.pages["http://images.example/there"] = Reply(
        status=302, headers={"Location": f"{server.url}/a.jpg"}
    )
    reader = ImageReader(StorageConfig(timeout_s=30, num_retries=1))
    assert reader.read("http://images.example/a.jpg", MAX_BYTES) == IMAGE
    # `no_proxy` has 127.0.0.1.
    assert reader.read(f"{server.url}/a.jpg", MAX_BYTES) == IMAGE
    assert reader.read(f"{server.url}/here", MAX_BYTES) == IMAGE
    assert reader.read("http://images.example/there", MAX_BYTES) == IMAGE
    paths = [path for _, path, _ in server.requests]
    assert paths == [
        "http://images.example/a.jpg", "/a.jpg", "/here", "http://images.example/a.jpg",
        "http://images.example/there", "/a.jpg",
    ]  # fmt: skip


def test_nobody_listening_is_a_failed_connection(reader: ImageReader) -> None:
    with pytest.raises(TransientError) as caught:
        reader.read(f"http://127.0.0.1:{free_port()}/a.jpg", MAX_BYTES)
    assert caught.value.code == ErrorCode.NETWORK


@pytest.mark.parametrize(
    "address", ["http://", "http:///a.jpg", "http://[::1/a.jpg", "http://h:99999/a", "http://a b/c"]
)
def test_what_is_no_address_is_not_found(reader: ImageReader, address: str) -> None:
    with pytest.raises((ObjectNotFound, TransientError)):
        reader.read(address, MAX_BYTES)


def test_names_with_spaces_and_letters_of_any_alphabet_are_encoded(
    server: FaultyServer, reader: ImageReader
) -> None:
    server.pages["/%C3%A9t%C3%A9%20a.jpg?x=1"] = Reply(body=IMAGE)
    assert reader.read(f"{server.url}/été a.jpg?x=1", MAX_BYTES) == IMAGE


def test_redirects_are_followed_but_not_for_ever(server: FaultyServer, reader: ImageReader) -> None:
    server.pages["/old"] = Reply(status=301, headers={"Location": "/a.jpg"})
    server.pages["/loop"] = Reply(status=302, headers={"Location": "/loop"})
    server.pages["/odd"] = Reply(status=302, headers={"Location": "file:///etc/passwd"})
    assert reader.read(f"{server.url}/old", MAX_BYTES) == IMAGE
    for name in ("loop", "odd"):
        with pytest.raises(ObjectNotFound) as caught:
            reader.read(f"{server.url}/{name}", MAX_BYTES)
        assert caught.value.uri == f"{server.url}/{name}"


def test_a_password_does_not_follow_a_redirect_to_another_host(
    server: FaultyServer, reader: ImageReader
) -> None:
    host = server.url.removeprefix("http://")
    server.pages["/near"] = Reply(status=302, headers={"Location": "/a.jpg"})
    far = server.url.replace("127.0.0.1", "localhost")
    server.pages["/far"] = Reply(status=302, headers={"Location": f"{far}/a.jpg"})
    assert far != server.url
    for name, is_sent in (("near", True), ("far", False)):
        assert reader.read(f"http://me:s3cret@{host}/{name}", MAX_BYTES) == IMAGE
        assert ("authorization" in map(str.lower, server.requests[-1][2])) == is_sent


def test_no_address_is_logged_where_a_server_answers_with_broken_headers(
    server: FaultyServer, reader: ImageReader, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(handler: Handler, true_reply: object) -> None:
        del true_reply
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nno header\r\n\r\nx")
        handler.close_connection = True

    server.faults.append(broken)
    assert reader.read(f"{server.url}/a.jpg?X-Amz-Signature=abc123", MAX_BYTES)
    assert "abc123" not in caplog.text


def test_user_and_password_are_sent_but_never_shown(
    server: FaultyServer, reader: ImageReader
) -> None:
    host = server.url.removeprefix("http://")
    assert reader.read(f"http://me:s%3Acret@{host}/a.jpg", MAX_BYTES) == IMAGE
    sent = {name.lower(): value for name, value in server.requests[-1][2].items()}
    assert sent["authorization"] == "Basic " + b64encode(b"me:s:cret").decode()
    secret = f"http://me:s3cret@{host}/a.jpg?X-Amz-Signature=abc123"
    for fault in (refused(404), refused(500), reset, truncated):
        server.pages["/a.jpg?X-Amz-Signature=abc123"] = Reply(body=IMAGE)
        server.faults.extend([fault] * 2)
        with pytest.raises((ObjectNotFound, TransientError)) as caught:
            reader.read(secret, MAX_BYTES)
        server.faults.clear()
        assert f"http://{host}/a.jpg" in str(caught.value)
        assert not any(word in str(caught.value) for word in ("me:", "s3cret", "abc123"))


def test_no_more_is_read_than_asked_for(server: FaultyServer, reader: ImageReader) -> None:
    asked = []

    def endless(handler: Handler, reply: TrueReply) -> None:
        handler.send(Reply(headers={"Content-Length": str(10**12)}, body=reply().body))
        while not handler.server.stopped.is_set():
            handler.wfile.write(bytes(65_536))
            asked.append(65_536)

    server.faults.append(endless)
    data = reader.read(f"{server.url}/a.jpg", 100_000)
    assert len(data) == 100_001
    assert sum(asked) < 50_000_000
    assert len(reader.read(f"{server.url}/a.jpg", len(IMAGE))) == len(IMAGE)
    assert len(reader.read(f"{server.url}/a.jpg", len(IMAGE) - 1)) == len(IMAGE)
    assert len(reader.read(f"{server.url}/a.jpg", 10)) == 11


def test_a_connection_is_used_again(server: FaultyServer, reader: ImageReader) -> None:
    for _ in range(20):
        reader.read(f"{server.url}/a.jpg", MAX_BYTES)
    assert server.num_connections == 1


def test_many_threads_share_one_reader(server: FaultyServer, reader: ImageReader) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: reader.read(f"{server.url}/a.jpg", MAX_BYTES), range(200)))
    assert found == [IMAGE] * 200
    assert server.num_connections <= 16
