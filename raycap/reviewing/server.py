"""The server of a review: its page, and what the page asks for, on this machine only.

Other programs of this machine, and the pages of other sites in the same browser, must not get at
the captions or change them. So the address has a random token, which is required of every request
as the cookie that the page sets; the name of the host must be that of this machine, which stops
sites that give their own name this machine's address; and whatever changes something must be JSON
that was sent by the page itself. The page may load nothing from anywhere else.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import ValidationError

from raycap.config import ReviewConfig
from raycap.edits.writing import EditConflict
from raycap.errors import ConfigError, RaycapError
from raycap.reviewing.pictures import NoPicture, Pictures
from raycap.reviewing.replacing import Rule
from raycap.reviewing.selection import Filter
from raycap.reviewing.session import Change, Session, describe_conflict
from raycap.storage.address import redact_text

logger = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "127.0.0.1"
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_OWN_NAMES = frozenset({HOST, "localhost"})
_NEVER_KEPT = "no-store"
_KEPT = "private, max-age=31536000, immutable"
_PICTURE_LIMIT_S = 60.0  # to read and to decode
_PICTURE_THREADS = 6
_MAX_REQUEST_BYTES = 1_000_000
_MAX_COUNT = 500
_PAGE = files("raycap.reviewing") / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(kw_only=True)
class Server:
    """A running server."""

    address: str
    """Address of the page, with its token."""
    _stopped: Event = field(default_factory=Event)

    def wait(self) -> None:
        """Wait until `stop` is called."""
        while not self._stopped.wait(3600):  # in pieces, so that Ctrl-C arrives on every system
            pass

    def stop(self) -> None:
        """End `wait`."""
        self._stopped.set()


@contextmanager
def serve(session: Session, pictures: Pictures, config: ReviewConfig) -> Iterator[Server]:
    """Serve a review for the length of the block, in a thread of its own.

    Raises:
        ConfigError: the port is taken.
    """
    pages = _Pages(session=session, pictures=pictures, config=config)
    started: Future[str] = Future()
    thread = Thread(target=_run, args=(pages, config, started), name="raycap-review", daemon=True)
    thread.start()
    try:
        yield Server(address=started.result())
    finally:
        pages.stop()
        thread.join()


def _run(pages: "_Pages", config: ReviewConfig, started: "Future[str]") -> None:
    try:
        asyncio.run(_serve(pages, config, started))
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


async def _serve(pages: "_Pages", config: ReviewConfig, started: "Future[str]") -> None:
    """Serve until the pages are stopped."""
    stopped = pages.prepare()
    runner = web.AppRunner(pages.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        started.set_result(await _listen(runner, pages, config))
        await stopped.wait()
    finally:
        await runner.cleanup()
        pages.close()


async def _listen(runner: web.AppRunner, pages: "_Pages", config: ReviewConfig) -> str:
    try:
        await web.TCPSite(runner, HOST, config.port or 0).start()
    except OSError as error:
        raise ConfigError(
            f"port={config.port}: cannot be served at ({error.strerror}); leave it out for a free "
            "one",
            setting="port",
        ) from error
    pages.port = runner.addresses[0][1]
    return f"http://{HOST}:{pages.port}/?token={pages.token}"


class _Pages:
    """The handlers of all addresses."""

    def __init__(self, *, session: Session, pictures: Pictures, config: ReviewConfig) -> None:
        self.token = secrets.token_urlsafe(32)
        self.port = 0
        self._session = session
        self._pictures = pictures
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        # Pictures wait for stores: they must not keep the captions from being shown.
        self._threads = ThreadPoolExecutor(_PICTURE_THREADS, "raycap-pictures")

    def app(self) -> web.Application:
        app = web.Application(
            middlewares=[self._guard, _errors], client_max_size=_MAX_REQUEST_BYTES
        )
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/page/{name}", _asset),
                web.get("/api/about", self._about),
                web.get("/api/items", self._items),
                web.get("/api/items/{item}", self._item),
                web.get("/pictures/{size}/{item}", self._picture),
                web.post("/api/edits", self._edit),
                web.post("/api/undo", self._undo),
                web.post("/api/replacements", self._preview),
                web.post("/api/replacements/{name}", self._replace),
            ]
        )
        return app

    def prepare(self) -> asyncio.Event:
        """Bind to the running loop; return the event that ends its server."""
        self._loop = asyncio.get_running_loop()
        return self._stopped

    def stop(self) -> None:
        """Tell the server to end, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _cookie(self) -> str:
        return f"raycap-review-{self.port}"  # cookies of all ports of a host are one set

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            response: web.StreamResponse = web.Response(status=403, text=refusal)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as answer:  # such as 404 of a path that there is not
                response = web.Response(status=answer.status, text=answer.reason)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", _NEVER_KEPT)
        return response

    def _refusal(self, request: web.Request) -> str | None:
        """Return why a request is refused; None if it is not."""
        if _host_name(request.headers.get("Host", "")) not in _OWN_NAMES:
            return "this server answers to the name of this machine only"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.headers["Host"]:
            return "requests of other pages are refused"
        given = request.cookies.get(self._cookie, "")
        if request.path == "/" and "token" in request.query:
            given = request.query["token"]
        if not hmac.compare_digest(given.encode(errors="replace"), self.token.encode()):
            return "open the address that `raycap review` printed: this one lacks its token"
        if request.method != "GET" and request.content_type != "application/json":
            return "send JSON"
        return None

    async def _page(self, request: web.Request) -> web.Response:
        response = web.Response(
            body=(_PAGE / "index.html").read_bytes(), content_type="text/html", charset="utf-8"
        )
        if "token" in request.query:
            response.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict")
        return response

    async def _about(self, _request: web.Request) -> web.Response:
        about = await asyncio.to_thread(self._session.about)
        return web.json_response({**about, "page_size": self._config.page_size})

    async def _items(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        first = _number(query.pop("first", "0"), "first")
        count = _number(query.pop("count", str(self._config.page_size)), "count")
        anew = query.pop("anew", "") == "1"
        wanted = _checked(Filter, query)

        page = await asyncio.to_thread(
            self._session.page, wanted, first, min(count, _MAX_COUNT), anew=anew
        )
        return web.json_response(page)

    async def _item(self, request: web.Request) -> web.Response:
        number = _number(request.match_info["item"], "item")
        return web.json_response(await asyncio.to_thread(self._session.details, number))

    async def _picture(self, request: web.Request) -> web.Response:
        number = _number(request.match_info["item"], "item")
        sizes = {"small": self._config.thumbnail_px, "large": self._config.picture_px}
        side_px = sizes.get(request.match_info["size"])
        if side_px is None:
            raise web.HTTPNotFound
        row = await asyncio.to_thread(self._session.row, number)
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._pictures.get, row, side_px
        )
        try:
            data = await asyncio.wait_for(work, _PICTURE_LIMIT_S)
        except NoPicture as reason:
            return web.Response(status=404, text=str(reason))
        except TimeoutError:
            return web.Response(status=404, text="the image was not read in time; try again later")
        return web.Response(body=data, content_type="image/webp", headers={"Cache-Control": _KEPT})

    async def _edit(self, request: web.Request) -> web.Response:
        change = _checked(Change, await _body(request))
        return await self._changed(lambda: self._session.save(change))

    async def _undo(self, request: web.Request) -> web.Response:
        name = (await _body(request)).get("name")
        return await self._changed(lambda: self._session.undo(str(name)))

    async def _preview(self, request: web.Request) -> web.Response:
        body = await _body(request)
        wanted = _checked(Filter, body.get("filter", {}))
        rule = _checked(Rule, body.get("rule", {}))
        return await self._changed(lambda: self._session.preview(wanted, rule))

    async def _replace(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await self._changed(lambda: self._session.replace(name))

    async def _changed(self, work: Callable[[], dict[str, Any]]) -> web.Response:
        """Do something that may change captions; tell a conflict."""
        try:
            return web.json_response(await asyncio.to_thread(work))
        except EditConflict as conflict:
            found = describe_conflict(conflict, self._session)
            return web.json_response(found, status=409)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell what is wrong in one line, as commands do; a bug is logged, and answered by aiohttp."""
    try:
        return await handler(request)
    except ConfigError as error:
        return web.json_response({"error": redact_text(str(error))}, status=400)
    except RaycapError as error:
        logger.warning("review_request_failed reason=%s", redact_text(str(error)))
        return web.json_response({"error": redact_text(str(error))}, status=502)


async def _asset(request: web.Request) -> web.Response:
    """Return a file of the page; there are only those of the package."""
    known = {file.name: file for file in _PAGE.iterdir() if file.name != "index.html"}
    file = known.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    kind = _TYPES["." + file.name.rpartition(".")[2]]
    return web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ConfigError("the request is not a JSON object")
    return body


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise ConfigError(f"{name}={text!r} is not a number", setting=name)
    return int(text)


def _checked(kind: Callable[..., T], values: dict[str, Any]) -> T:
    """Check what a page sent. Raises ConfigError."""
    try:
        return kind(**values)
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise ConfigError("the request is not valid") from None
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{place}: {first['msg']}", setting=place or None) from None
