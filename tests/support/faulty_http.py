"""A web server whose answers can be made to fail, alone or in front of another server."""

import http.client
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from raycap.config import StorageConfig

if TYPE_CHECKING:
    from tests.conftest import S3


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Answers with the next fault, or else truly."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server: "FaultyServer"

    def setup(self) -> None:
        super().setup()
        self.server.num_connections += 1

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        fault = self.server.faults.popleft() if self.server.faults else self.server.rule(self)
        fault(self, partial(self.server.true_reply, self, body))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def send(self, reply: Reply, sent: int | None = None) -> None:
        """Send a reply, of its body only the first `sent` bytes."""
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204 and "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:sent])

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


TrueReply = Callable[[], Reply]
"""Does what is asked for, and gives the answer."""

Fault = Callable[[Handler, TrueReply], None]

Rule = Callable[[Handler], Fault]
"""Says what becomes of a request."""


def truthful(handler: Handler, reply: TrueReply) -> None:
    """Do as asked."""
    handler.send(reply())


def refused(status: int, code: str = "") -> Fault:
    """Answer with a status, and an error as S3 writes it if a code is given."""
    text = f"<Error><Code>{code}</Code><Message>It is\nso.</Message></Error>" if code else "sorry"

    def fault(handler: Handler, reply: TrueReply) -> None:
        del reply
        handler.send(Reply(status=status, body=text.encode()))

    return fault


def reset(handler: Handler, reply: TrueReply) -> None:
    """Break the connection before any answer."""
    del reply
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.hang_up()


def lost(handler: Handler, reply: TrueReply) -> None:
    """Do as asked, and break the connection instead of answering."""
    found = reply()
    reset(handler, lambda: found)


def truncated(handler: Handler, reply: TrueReply) -> None:
    """Promise the whole body, send half of it, and hang up."""
    found = reply()
    handler.send(found, sent=len(found.body) // 2)
    handler.hang_up()


def stalled(handler: Handler, reply: TrueReply) -> None:
    """Send nothing, for longer than anybody waits."""
    del reply
    handler.server.stopped.wait(30)
    handler.hang_up()


def stalled_midway(handler: Handler, reply: TrueReply) -> None:
    """Send half of the body and then nothing more."""
    found = reply()
    handler.send(found, sent=len(found.body) // 2)
    handler.wfile.flush()
    stalled(handler, reply)


def dripping(handler: Handler, reply: TrueReply) -> None:
    """Send a byte of the body now and then, so that no wait for the next one is long."""
    found = reply()
    handler.send(found, sent=0)
    for place in range(len(found.body)):
        if handler.server.stopped.wait(0.05):
            return
        handler.wfile.write(found.body[place : place + 1])


def cut_short(handler: Handler, reply: TrueReply) -> None:
    """Send half of the body as if it were all of it."""
    found = reply()
    headers = {**found.headers, "Content-Length": str(len(found.body) // 2)}
    handler.send(
        Reply(status=found.status, body=found.body[: len(found.body) // 2], headers=headers)
    )


def garbled(handler: Handler, reply: TrueReply) -> None:
    """Answer 200 with what is not XML."""
    del reply
    handler.send(Reply(body=b"<html>welcome to the hotel's Wi-Fi"))


class FaultyServer(ThreadingHTTPServer):
    """Serves `pages`, or what the server at `upstream` does."""

    daemon_threads = True

    def __init__(self, upstream: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Reply] = {}
        self.faults: deque[Fault] = deque()
        self.rule: Rule = lambda _: truthful  # once there are no faults
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.num_connections = 0
        self.stopped = Event()
        self._upstream = upstream

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def true_reply(self, request: Handler, body: bytes) -> Reply:
        if self._upstream is None:
            return self.pages.get(request.path, Reply(status=404, body=b"not here"))
        connection = http.client.HTTPConnection(urlsplit(self._upstream).netloc, timeout=30)
        try:
            headers = {**request.headers, "Host": urlsplit(self._upstream).netloc}
            headers.pop("Expect", None)
            connection.request(request.command, request.path, body, headers)
            reply = connection.getresponse()
            kept = {k: v for k, v in reply.getheaders() if k not in ("Connection", "Date")}
            return Reply(status=reply.status, body=reply.read(), headers=kept)
        finally:
            connection.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


@contextmanager
def faulty_server(upstream: str | None = None) -> Iterator[FaultyServer]:
    """Run a server in a thread."""
    server = FaultyServer(upstream)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def faulty_s3(s3: "S3", monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Between this process and its S3 server."""
    with faulty_server(s3.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> StorageConfig:
    """One retry after a long wait, since a busy machine answers late; a short one for no answer.

    The test's parameter `fault` says whether an answer comes.
    """
    callspec = getattr(request.node, "callspec", None)
    fault = callspec.params.get("fault") if callspec else None
    timeout_s = 1.0 if fault in (stalled, stalled_midway) else 30.0
    return StorageConfig(timeout_s=timeout_s, num_retries=1)
