"""Images at `http://` and `https://` addresses."""

import logging
from collections.abc import Callable
from urllib.parse import unquote

import urllib3
from urllib3 import exceptions as errors
from urllib3.util import parse_url

from raycap.config import StorageConfig
from raycap.errors import ErrorCode, ObjectNotFound, StorageError, TransientError
from raycap.storage.address import redact
from raycap.storage.base import retrying

_Receive = Callable[[urllib3.BaseHTTPResponse], bytes]

_USER_AGENT = "raycap (+image captioning; python-urllib3)"


class WebReader:
    """Reads web addresses over a pool of connections; safe to use from many threads."""

    def __init__(self, config: StorageConfig) -> None:
        # Its warnings contain whole addresses with signatures; our errors report what failed.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._retrying = retrying(config)
        self._pool = urllib3.PoolManager(
            num_pools=64,
            maxsize=16,
            timeout=urllib3.Timeout(connect=config.timeout_s, read=config.timeout_s),
            # Redirects are followed here; `retrying` retries every other failure.
            retries=urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5),
        )

    def read(self, uri: str, max_bytes: int) -> bytes:
        """Read a web address, at most `max_bytes + 1` of it.

        Raises:
            ObjectNotFound: the server refuses permanently (any 4xx but 408 and 429).
            TransientError: it stayed unreachable after the configured retries.
        """
        return self._retrying(self._attempt, uri, {}, lambda reply: _read_body(reply, max_bytes))

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

        return self._retrying(self._attempt, uri, span, receive)

    def _attempt(self, uri: str, extra: dict[str, str], receive: _Receive) -> bytes:
        shown = redact(uri)
        try:
            address, headers = _authorized(uri)
            reply = self._pool.request(
                "GET", address, headers=headers | extra, preload_content=False
            )
            try:
                if reply.status == 416:  # the file ends before the range
                    return b""
                _check(reply.status, shown)
                return receive(reply)
            finally:
                # A body read to its end has returned its connection already.
                reply.close()
        except errors.LocationValueError as error:
            raise ObjectNotFound(f"{shown}: not a web address") from error
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
        return ObjectNotFound(f"{shown}: is redirected too often")
    is_refused = isinstance(cause, errors.NewConnectionError)  # a time-out to urllib3
    if isinstance(cause, errors.TimeoutError | TimeoutError) and not is_refused:
        return TransientError(ErrorCode.TIMEOUT, f"{shown}: timed out")
    name = type(cause).__name__
    return TransientError(ErrorCode.NETWORK, f"{shown}: connection failed ({name})")


def _read_body(reply: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in reply.stream(65_536):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            break
    return b"".join(chunks)[: max_bytes + 1]


def _check(status: int, shown: str) -> None:
    if status < 300:
        return
    if status in (429, 503):
        raise TransientError(ErrorCode.THROTTLED, f"{shown}: throttled (HTTP {status})")
    if status in (408, 504):
        raise TransientError(ErrorCode.TIMEOUT, f"{shown}: timed out (HTTP {status})")
    if status >= 500:
        raise TransientError(ErrorCode.SERVER_ERROR, f"{shown}: HTTP {status}")
    raise ObjectNotFound(f"{shown}: HTTP {status}")
