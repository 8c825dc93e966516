"""A review in a test: an index over rows written by hand, and a client of the real server."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raycap.config import ReviewConfig
from raycap.edits.writing import EditWriter
from raycap.reviewing.index import open_index
from raycap.reviewing.pictures import open_pictures
from raycap.reviewing.server import Server, serve
from raycap.reviewing.session import Session, states_of
from raycap.reviewing.sources import open_sources

MEMORY_BYTES = 200_000_000


@contextmanager
def open_session(*addresses: str | Path, by: str = "ada") -> Iterator[Session]:
    """Open a review of an output without its server."""
    config = ReviewConfig(reviewer=by)
    sources = open_sources([str(address) for address in addresses], config.storage)
    writer = EditWriter(sources.output.store, config.reviewer)
    with open_index(
        sources.output,
        states=partial(states_of, writer.history),
        beside=sources.beside,
        scores=sources.scores,
        memory_bytes=MEMORY_BYTES,
        on_progress=lambda _: None,
    ) as index:
        yield Session(output=sources.output, index=index, writer=writer)


@contextmanager
def served(
    *addresses: str | Path, by: str = "ada", **settings: Any
) -> Iterator[tuple[Server, Session]]:
    """Serve a review of an output."""
    config = ReviewConfig(reviewer=by, open_browser=False, **settings)
    with ExitStack() as stack:
        session = stack.enter_context(open_session(*addresses, by=by))
        pictures = stack.enter_context(open_pictures(session.output, config))
        yield stack.enter_context(serve(session, pictures, config)), session


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """A client that sends exactly the given headers, and no cookie of its own."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.address)
        self.host = parts.netloc
        self.port = int(parts.port or 0)
        self.token = parts.query.partition("=")[2]

    @property
    def cookie(self) -> str:
        """The cookie that the page sets."""
        return f"raycap-review-{self.port}={self.token}"

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        without: Sequence[str] = (),
        **headers: str,
    ) -> Answer:
        """Ask for a path, with the cookie; with a body, post it as JSON."""
        sent = {"Host": self.host, "Cookie": self.cookie}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method or ("GET" if data is None else "POST"), path, skip_host=True)
        for name, value in sent.items():
            if name not in without:
                connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found
