"""Images at `http://` and `https://` addresses."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

import urllib3
from urllib3 import exceptions as errors
from urllib3.util import parse_url

from raycap.config import StorageConfig
from raycap.errors import (
    ErrorCode,
    ObjectForbidden,
    ObjectNotFound,
    StorageError,
    TransientError,
)
from raycap.storage.address import redact
from raycap.storage.base import retry_after_s, retrying
from raycap.storage.limits import Connections, within
from raycap.storage.proxies import Pools

T = TypeVar("T")
_Receive = Callable[[urllib3.BaseHTTPResponse], T]

_USER_AGENT = "raycap (+image captioning; python-urllib3)"

_FORBIDDEN = frozenset({401, 402, 403, 407, 451})
# S3 and Google: "Request has expired", "ExpiredToken"; Azure: "Signature not valid in the specified
# time frame"; others: "URL signature expired".
_EXPIRED = re.compile(
    rb"Request(?: signature)? (?:has )?expired|<Code>ExpiredToken<|URL (?:signature )?expired"
    rb"|[Ss]ignature (?:has )?expired|not valid in the specified time frame"
)
_REFUSAL_BYTES = 4_096


class WebFile(NamedTuple):
    """What a server says of a file."""

    num_bytes: int
    version: str | None
    """Its ETag, or else the time of its last modification."""
    has_ranges: bool
    """Whether the server sends the part of a file that is asked for."""


_EMPTY = WebFile(num_bytes=0, version=None, has_ranges=True)


class WebReader:
    """Reads web addresses over a pool of connections; safe to use from many threads."""

    def __init__(self, config: StorageConfig) -> None:
        # Its warnings contain whole addresses with signatures; our errors report what failed.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._limit_s = config.image_timeout_s
        self._retrying = retrying(config, self._limit_s)
        self._pools = Pools(
            num_pools=64,
            maxsize=16,
            timeout=urllib3.Timeout(connect=config.timeout_s, read=config.timeout_s),
            # Redirects are followed here; `retrying` retries every other failure.
            retries=urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5),
        )

    def read(self, uri: str, max_bytes: int) -> bytes:
        """Read a web address, at most `max_bytes + 1` of it.

        Raises:
            ObjectNotFound: the server refuses permanently (any 4xx but 408, 429 and those below).
            ObjectForbidden: it refuses access (401, 402, 403, 407, 451).
            TransientError: it stayed unreachable after the configured retries or beyond the time
                limit, or its signature has expired.
        """
        return self._within_limit(uri, {}, lambda reply: _read_body(reply, max_bytes), b"")

    def read_range(self, uri: str, offset_bytes: int, num_bytes: int) -> bytes:
        """Read `num_bytes` of a web address from an offset on; raises as `read` does.

        A server without range support sends the whole file, of which the rest is dropped.
        """
        end = offset_bytes + num_bytes
        span = {"Range": f"bytes={offset_bytes}-{end - 1}"}

        def receive(reply: urllib3.BaseHTTPResponse) -> bytes:
            if reply.status == 206:
                return _read_body(reply, num_bytes - 1)
            return _read_body(reply, end - 1)[offset_bytes:]

        return self._within_limit(uri, span, receive, b"")

    def describe(self, uri: str) -> WebFile:
        """Return what the server says of a file, by a request for its first byte.

        Raises as `read` does.
        """
        return self._within_limit(uri, {"Range": "bytes=0-0"}, _describe, _EMPTY)

    def _within_limit(self, uri: str, extra: dict[str, str], receive: _Receive[T], at_end: T) -> T:
        def work(connections: Connections) -> T:
            found: T = self._retrying(self._attempt, uri, extra, receive, connections, at_end)
            return found

        return within(self._limit_s, work, redact(uri))

    def _attempt(
        self,
        uri: str,
        extra: dict[str, str],
        receive: _Receive[T],
        connections: Connections,
        at_end: T,
    ) -> T:
        shown = redact(uri)
        try:
            address, headers = _authorized(uri)
            reply = self._pools.get(address, headers | extra)
            try:
                connections.hold(reply.shutdown)
                if reply.status == 416:  # the file ends before the range
                    return at_end
                _check(reply, uri, shown)
                return receive(reply)
            finally:
                connections.hold(None)
                # A body read to its end has returned its connection already.
                reply.close()
        except errors.LocationValueError as error:
            raise ObjectNotFound(f"{shown}: not a web address", uri=shown) from error
        except (errors.HTTPError, OSError) as error:
            raise _explain(error, shown) from error


def _authorized(uri: str) -> tuple[str, dict[str, str]]:
    """Turn `https://user:password@host/` into an address without credentials and a header."""
    url = parse_url(uri)
    headers = {"User-Agent": _USER_AGENT}
    if url.auth is not None:
        headers |= urllib3.make_headers(basic_auth=unquote(url.auth))
    return url._replace(auth=None).url, headers


def _explain(error: Exception, shown: str) -> StorageError:
    # A failure without a reply comes as MaxRetryError, which has the reason in it.
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, errors.ResponseError):
        return ObjectNotFound(f"{shown}: is redirected too often", uri=shown)
    is_refused = isinstance(cause, errors.NewConnectionError)  # a time-out to urllib3
    if isinstance(cause, errors.TimeoutError | TimeoutError) and not is_refused:
        return TransientError(ErrorCode.TIMEOUT, f"{shown}: timed out")
    name = type(cause).__name__
    through = " to the proxy" if isinstance(cause, errors.ProxyError) else ""
    return TransientError(ErrorCode.NETWORK, f"{shown}: connection{through} failed ({name})")


def _describe(reply: urllib3.BaseHTTPResponse) -> WebFile:
    version = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
    version = version.removeprefix("W/").strip('"') if version else None
    total = reply.headers.get("Content-Range", "").rpartition("/")[2]
    has_ranges = reply.status == 206 and total.isdecimal()
    return WebFile(int(total) if has_ranges else 0, version, has_ranges)


def _read_body(reply: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in reply.stream(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            break
    return b"".join(chunks)[: max_bytes + 1]


def _check(reply: urllib3.BaseHTTPResponse, uri: str, shown: str) -> None:
    status = reply.status
    if status < 300:
        return
    wait_s = retry_after_s(reply.headers.get("Retry-After"))
    if status in (429, 503):
        told = f"{shown}: throttled (HTTP {status})"
        raise TransientError(ErrorCode.THROTTLED, told, retry_after_s=wait_s)
    if status in (408, 504):
        told = f"{shown}: timed out (HTTP {status})"
        raise TransientError(ErrorCode.TIMEOUT, told, retry_after_s=wait_s)
    if status >= 500:
        told = f"{shown}: HTTP {status}"
        raise TransientError(ErrorCode.SERVER_ERROR, told, retry_after_s=wait_s)
    if status in (400, 401, 403, 410) and _has_expired(reply, uri):
        told = f"{shown}: its signature has expired (HTTP {status}); sign the address again"
        raise TransientError(ErrorCode.EXPIRED, told, retry_after_s=None)
    if status in _FORBIDDEN:
        raise ObjectForbidden(f"{shown}: access denied (HTTP {status})", uri=shown)
    raise ObjectNotFound(f"{shown}: HTTP {status}", uri=shown)


def _has_expired(reply: urllib3.BaseHTTPResponse, uri: str) -> bool:
    """Whether an address was refused because it was signed for a time that is over."""
    fields = {name.lower(): value for name, value in parse_qsl(uri.partition("?")[2])}
    end_s = _end_of(fields)
    if end_s is not None and end_s < time.time():
        return True
    return bool(_EXPIRED.search(_read_body(reply, _REFUSAL_BYTES)))


def _end_of(fields: Mapping[str, str]) -> float | None:
    """Return the time until which a signed address is valid, as it says itself; None if unknown."""
    try:
        for kind in ("amz", "goog"):
            if f"x-{kind}-expires" in fields:
                begin = datetime.strptime(fields[f"x-{kind}-date"], "%Y%m%dT%H%M%S%z")
                return begin.timestamp() + float(fields[f"x-{kind}-expires"])
        if "sig" in fields and "se" in fields:  # Azure
            end = datetime.fromisoformat(fields["se"])
            return (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()
        if "signature" in fields and "expires" in fields:  # CloudFront, and older signatures
            return float(fields["expires"])
    except (KeyError, ValueError, OverflowError):
        pass  # not what its name says
    return None
