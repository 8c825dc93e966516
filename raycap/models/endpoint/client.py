"""Asks endpoints for captions: retries, other endpoints, and errors that are an image's or not.

A request whose answer is lost may have been paid for. So nothing is asked twice without need: there
are no requests in advance or in parallel for one image, and a request is repeated only after it
failed, was refused or timed out.
"""

import asyncio
import logging
import random
import ssl
import time
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Protocol, runtime_checkable

import aiohttp
from PIL import Image

from raycap.config import EndpointConfig
from raycap.errors import ConfigError, ErrorCode, ImageError, ModelError
from raycap.models.base import Caption, Question
from raycap.models.endpoint.messages import (
    Asking,
    Dialect,
    Fault,
    Picture,
    Refusal,
    completions_url,
    one_line,
    read_answer,
)
from raycap.models.endpoint.pool import Answered, Endpoint, Patience, Pool, Ticket
from raycap.models.endpoint.secrets import Secrets

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 4  # of one request that servers fail on while they answer others
_MAX_REJECTIONS = 16  # of a question in a row; then a grey image shows whether it is still answered
_FIRST_BACKOFF_S = 0.2
_MAX_CONNECT_S = 30.0
_MAX_ANSWER_BYTES = 16 * 2**20
_UNREACHABLE = -1
_TIMEOUT = 408
_TOO_LARGE = 413


@runtime_checkable  # the type checks of the test run use isinstance
class CountsAnswers(Protocol):
    """Counts what is paid, and may stop the run."""

    def check(self) -> None:
        """Raise RunStopped if no more may be asked; called before each request."""

    def count(self, answer: Caption) -> None:
        """Count an answer. Raises ModelError if that is impossible, and a bound needs it."""


@dataclass(slots=True)
class _Tries:
    """The attempts of one question about one image."""

    question: Question
    plain: Question
    """Without what was filled in for the image."""
    begun_s: float = field(default_factory=time.monotonic)
    sent_s: float = 0.0
    """When the last attempt was sent."""
    num_failures: int = 0
    failed_at: Endpoint | None = None
    """The endpoint that failed last."""


class EndpointClient:
    """Asks the endpoints of a run. Use it in one event loop, and close it there."""

    def __init__(
        self,
        asking: Asking,
        config: EndpointConfig,
        secrets: Secrets,
        patience: Patience,
        meter: CountsAnswers | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            asking: What to send besides image and question.
            config: The endpoints.
            secrets: Key and headers.
            patience: How long to wait for servers that do not answer.
            meter: Counts the answers.
        """
        self._asking = asking
        self._config = config
        self._secrets = secrets
        now = time.monotonic()
        self._pool = Pool(
            [
                Endpoint(completions_url(url), config.min_in_flight, config.max_in_flight, now)
                for url in config.urls
            ],
            time.monotonic,
            patience,
        )
        self._dialect = Dialect(logprobs=config.logprobs is not False)
        self._session = _session(config, secrets)
        self._checking = asyncio.Lock()
        self._num_rejections: dict[tuple[str, str], int] = {}
        """Since the last answer, by endpoint and question; none for those never answered."""
        self._has_followed_schema = False
        self._meter = meter

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints, with what was found out about them."""
        return self._pool.endpoints

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def answer(
        self,
        picture: Picture,
        question: Question,
        *,
        last: "Answered | None" = None,
        plain: Question | None = None,
    ) -> Caption | ImageError:
        """Ask one question about one image, until an endpoint answers it.

        Args:
            picture: The image.
            question: What to ask.
            last: Which endpoint answered the last question about the image, for further ones: it
                is asked again if it has room, since it may still know the image. Updated.
            plain: The question without what was filled in for the image, to find out whether the
                endpoint answers it at all; None if it is the same.

        Raises:
            ModelError: the endpoints refuse whatever is asked: for their key, model or address.
            RunStopped: no endpoint answers for too long.
        """
        last = last or Answered()
        tries = _Tries(question, plain or question)
        while True:
            endpoint, ticket = await self._pool.place(
                avoided=tries.failed_at, preferred=last.endpoint, is_first=last.endpoint is None
            )
            last.endpoint, dialect = endpoint, self._dialect
            tries.sent_s = time.monotonic()
            try:
                caption = await self._ask(endpoint, ticket, picture, question, dialect)
            except Refusal as refusal:
                error = await self._error_of_image(endpoint, refusal, dialect, tries)
                if error is not None:
                    return error
            else:
                self._num_rejections[endpoint.url, tries.plain.text] = 0
                return caption

    async def _error_of_image(
        self, endpoint: Endpoint, refusal: Refusal, dialect: Dialect, tries: _Tries
    ) -> ImageError | None:
        """Return why an image has no answer; None if it is to be asked about again."""
        if refusal.fault is Fault.REQUEST and not self._adapt(dialect, refusal):
            if await self._is_images_own(endpoint, tries.plain):
                told = self._told(endpoint, refusal)
                is_large = refusal.status == _TOO_LARGE
                hint = ": lower image.max_pixels_model or endpoint.quality" if is_large else ""
                return ImageError(ErrorCode.MODEL_REJECTED, told + hint)
        elif refusal.fault is Fault.SERVER:
            tries.failed_at = endpoint
            tries.num_failures += refusal.status != _UNREACHABLE
            if await self._fails_on_it(endpoint, refusal, tries):
                return ImageError(_code(refusal), self._told(endpoint, refusal))
            await asyncio.sleep(random.uniform(0, _FIRST_BACKOFF_S * 2**tries.num_failures))
        return None

    async def _fails_on_it(self, endpoint: Endpoint, refusal: Refusal, tries: _Tries) -> bool:
        """Return whether endpoints have failed on a request for good, while they answer others."""
        is_last = tries.num_failures >= _MAX_ATTEMPTS
        if refusal.status == _TIMEOUT:
            # So long a silence would end the run before the last attempt.
            is_own = await self._answers_others(endpoint, tries.sent_s)
        else:
            is_own = is_last and await self._answers_others(endpoint, tries.begun_s)
        return is_last and is_own and not self._leave_out_schema(tries.question, refusal)

    async def _ask(
        self,
        endpoint: Endpoint,
        ticket: Ticket,
        picture: Picture,
        question: Question,
        dialect: Dialect,
    ) -> Caption:
        """Send a request to an endpoint, and note how it went. Raises Refusal."""
        try:
            if self._meter is not None:
                self._meter.check()
            body = self._asking.body(picture, question, dialect)
            caption = await self._post(endpoint.url, body)
        except Refusal as refusal:
            if refusal.says_unsupported and dialect.understood(refusal.reason) is not None:
                refusal.fault = Fault.REQUEST  # some servers answer 403 or 500
            self._note(endpoint, ticket, refusal)
            raise
        except BaseException:
            endpoint.gave_up(ticket, time.monotonic())
            self._pool.dispatch()
            raise
        if self._meter is not None:
            self._meter.count(caption)
        self._has_followed_schema |= question.json_schema is not None and dialect.schemas
        endpoint.worked(ticket, time.monotonic(), is_caption=True)
        self._pool.note_answer()
        return caption

    def _note(self, endpoint: Endpoint, ticket: Ticket, refusal: Refusal) -> None:
        """Tell the pool about an answer without a caption; raises if the run cannot go on."""
        now, fault = time.monotonic(), refusal.fault
        if fault is Fault.SETTINGS and refusal.status == 404 and endpoint.has_worked:
            fault = refusal.fault = Fault.SERVER  # a proxy whose server is gone
        if fault is Fault.REQUEST:
            endpoint.worked(ticket, now, is_caption=False)
            self._pool.note_answer()
            return
        if fault is Fault.SETTINGS:
            endpoint.gave_up(ticket, now)
            raise self._fatal(endpoint, refusal)
        if fault is Fault.BUSY:
            endpoint.busy(ticket, now, refusal.wait_s)
        else:
            is_timeout = refusal.status == _TIMEOUT
            endpoint.failed(ticket, now, refusal.wait_s, is_timeout=is_timeout)
        self._pool.check_patience(self._told(endpoint, refusal))

    async def _post(self, url: str, body: bytes) -> Caption:
        """Send one request. Raises Refusal; ModelError if the certificate is not trusted."""
        try:
            async with self._session.post(url, data=body, allow_redirects=False) as reply:
                chunks, num_bytes = [], 0
                async for chunk in reply.content.iter_chunked(2**16):
                    chunks.append(chunk)
                    num_bytes += len(chunk)
                    if num_bytes > _MAX_ANSWER_BYTES:
                        raise Refusal(Fault.SERVER, f"answers more than {_MAX_ANSWER_BYTES:,} B")
                return read_answer(reply.status, reply.headers, b"".join(chunks))
        except aiohttp.ClientConnectorCertificateError as error:
            raise ModelError(
                f"{url}: its certificate is not trusted ({one_line(str(error.certificate_error))}):"
                " set endpoint.verify_tls to the file of the authority that signed it",
                setting="endpoint.verify_tls",
                uri=url,
            ) from None
        except aiohttp.ClientConnectorError as error:
            reason = f"cannot be reached: {one_line(str(error.os_error or error))}"
            raise Refusal(Fault.SERVER, reason, status=_UNREACHABLE) from None
        except TimeoutError:
            reason = f"no answer within {self._config.timeout_s:g} s (endpoint.timeout_s)"
            raise Refusal(Fault.SERVER, reason, status=_TIMEOUT) from None
        except aiohttp.ClientError as error:
            reason = f"the connection broke: {one_line(str(error)) or type(error).__name__}"
            raise Refusal(Fault.SERVER, reason) from None

    def _adapt(self, dialect: Dialect, refusal: Refusal) -> bool:
        """Leave out what a server does not support; return whether to ask again."""
        if dialect != self._dialect:
            return True  # learned while this request was on its way
        found = dialect.understood(refusal.reason)
        if found is None or not self._asking.allows(found):
            return False
        if self._config.logprobs and not found.logprobs:
            return False
        self._learn(found, refusal)
        return True

    def _learn(self, dialect: Dialect, refusal: Refusal) -> None:
        logger.warning("endpoint_asked_otherwise reason=%s", self._secrets.hidden(refusal.reason))
        self._dialect = dialect

    async def _is_images_own(self, endpoint: Endpoint, question: Question) -> bool:
        """Return whether a rejection is due to the image: whether the endpoint takes another one.

        It does if it has answered the question before, unless it has rejected many images since.
        False if the endpoint fails before it can tell.

        Raises:
            ModelError: the endpoint rejects a plain grey image too.
        """
        key = endpoint.url, question.text
        async with self._checking:
            if (num_before := self._num_rejections.get(key, _MAX_REJECTIONS)) < _MAX_REJECTIONS:
                self._num_rejections[key] = num_before + 1
                return True
            ticket = endpoint.send(time.monotonic())
            try:
                await self._ask(endpoint, ticket, _grey(), question, self._dialect)
            except Refusal as refusal:
                if refusal.fault is not Fault.REQUEST:
                    return False
                raise ModelError(
                    f"{self._told(endpoint, refusal)}; it refuses every image: check that "
                    f"{self._asking.model} reads images, and the settings of generation and "
                    "endpoint.extra_body",
                    setting="model.name",
                    uri=endpoint.url,
                ) from None
            self._num_rejections[key] = 0
            return True

    async def _answers_others(self, endpoint: Endpoint, since_s: float) -> bool:
        """Return whether endpoints answer other requests than the one that failed.

        If none was answered since a time, a grey image is asked about: otherwise one image that a
        server fails on would look like a server that is gone, and end the run.
        """
        async with self._checking:
            if self._pool.worked_s > since_s:
                return True
            ticket = endpoint.send(time.monotonic())
            try:
                await self._ask(endpoint, ticket, _grey(), Question(text=""), self._dialect)
            except Refusal as refusal:
                return refusal.fault is Fault.REQUEST
            return True

    def _leave_out_schema(self, question: Question, refusal: Refusal) -> bool:
        """Leave out JSON schemas from now on if a server only fails on those; whether it does."""
        is_suspect = question.json_schema is not None and refusal.status >= 500
        if not is_suspect or not self._dialect.schemas or self._has_followed_schema:
            return False
        self._learn(replace(self._dialect, schemas=False), refusal)
        return True

    def _fatal(self, endpoint: Endpoint, refusal: Refusal) -> ModelError:
        named = self._config.api_key_env
        key = f"check the key in {named}" if named else "set endpoint.api_key_env to its variable"
        setting, remedy = {
            401: ("endpoint.api_key_env", key),
            402: ("endpoint.api_key_env", "add credit to the account"),
            403: ("endpoint.api_key_env", "check what its key may do"),
            404: ("model.name", "check model.name, and endpoint.urls"),
            405: ("endpoint.urls", "check endpoint.urls: it does not lead to chat completions"),
        }.get(refusal.status, ("endpoint.urls", "write that address into endpoint.urls"))
        return ModelError(
            f"{self._told(endpoint, refusal)}: {remedy}", setting=setting, uri=endpoint.url
        )

    def _told(self, endpoint: Endpoint, refusal: Refusal) -> str:
        return self._secrets.hidden(f"{endpoint.url}: {refusal.reason}")


def _session(config: EndpointConfig, secrets: Secrets) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json", "User-Agent": "raycap", **secrets.headers}
    if secrets.key is not None:
        headers["Authorization"] = f"Bearer {secrets.key}"
    connect_s = min(_MAX_CONNECT_S, config.timeout_s)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=_tls(config.verify_tls)),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=connect_s),
        trust_env=True,  # proxies
    )


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"endpoint.verify_tls: {verify}: not a file of certificates on this node: {error}",
            setting="endpoint.verify_tls",
            uri=verify,
        ) from None


def _grey() -> Picture:
    """Return a plain grey image, which no server rejects for its content."""
    sink = BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(sink, "JPEG")
    return Picture(file=sink.getvalue())


def _code(refusal: Refusal) -> ErrorCode:
    if refusal.status == _TIMEOUT:
        return ErrorCode.TIMEOUT
    return ErrorCode.SERVER_ERROR if refusal.status else ErrorCode.NETWORK
