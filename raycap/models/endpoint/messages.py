"""Requests to chat completions and their answers, as OpenAI defined them. Does no I/O.

Servers differ in what they support, and answer what they refuse with a text. Only what raycap can
do without is recognised in such texts: log-probabilities, JSON schemas, seeds, the temperature of
greedy search, and the old name of `max_completion_tokens`.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from raycap.answers.gate import FINISH_FILTERED
from raycap.answers.typed import answer_type
from raycap.config import GenerationConfig
from raycap.images.encoding import media_type
from raycap.models.base import Caption, Question
from raycap.storage.base import retry_after_s

INSTRUCTION = "Describe this image in one sentence."
"""The prompt if none is set, as for vision-language models that run in raycap."""

_COMPLETIONS = "/chat/completions"
_FINISHES = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": FINISH_FILTERED,
    "safety": FINISH_FILTERED,
    "refusal": FINISH_FILTERED,
}
"""What ended an answer, by the words of servers in small letters."""
_OVERLOADED = 529  # not of HTTP, but Anthropic and others use it
_SEED_BITS = 31  # llama.cpp reads 32 bits, and OpenAI a signed number
_MESSAGE_CHARS = 300
_NO_MONEY = re.compile(r"insufficient_quota|billing_hard_limit|credit balance", re.IGNORECASE)
_WRONG_KEY = re.compile(
    r"(invalid|incorrect) api.?key|api.?key (is )?(not valid|invalid)", re.IGNORECASE
)
_TOO_LONG = re.compile(r"too large|context length", re.IGNORECASE)
_UNSUPPORTED: Mapping[str, re.Pattern[str]] = {
    "logprobs": re.compile(r"log_?prob", re.IGNORECASE),
    "schemas": re.compile(
        r"response_format|json.?schema|grammar|structured.?output|guided", re.IGNORECASE
    ),
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b", re.IGNORECASE),
}
"""How refusals name what raycap can do without, by fields of Dialect."""
_SAYS_SO = re.compile(
    r"support|allow|permit|deprecat|invalid|unknown|unexpected|unrecogni", re.IGNORECASE
)
_MARKUP = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between servers; learned from their refusals."""

    logprobs: bool = True
    """Whether to ask for log-probabilities."""
    length_field: str = "max_tokens"
    """The field for the maximum number of tokens."""
    schemas: bool = True
    """Whether to send JSON schemas; answers are checked anyway."""
    temperature: bool = True
    """Whether to send the temperature."""
    seed: bool = True
    """Whether to send seeds."""

    def understood(self, refusal: str) -> "Dialect | None":
        """Return the dialect without what a server has refused; None if that is the same one."""
        if self.length_field == "max_tokens" and "max_completion_tokens" in refusal:
            # vLLM names both fields if the number does not fit into the context.
            is_name = _TOO_LONG.search(refusal) is None
            return replace(self, length_field="max_completion_tokens") if is_name else None
        for name, pattern in _UNSUPPORTED.items():
            is_common = name in ("temperature", "seed")  # a word of prompts, which servers quote
            if is_common and not _SAYS_SO.search(refusal):
                continue
            if getattr(self, name) and pattern.search(refusal):
                without: dict[str, Any] = {name: False}
                return replace(self, **without)
        return None


class Fault(Enum):
    """Whom an answer without a caption is about."""

    REQUEST = "request"
    """The request is refused: for its image, or because the server supports no images."""
    SETTINGS = "settings"
    """Another request would fail too: a wrong key, address or model, or no money."""
    BUSY = "busy"
    """The server asks for fewer requests."""
    SERVER = "server"
    """The server failed."""


class Refusal(Exception):
    """An answer without a caption."""

    def __init__(self, fault: Fault, reason: str, *, wait_s: float = 0.0, status: int = 0) -> None:
        """Describe the answer.

        Args:
            fault: Whom it is about.
            reason: The server's own words, in one line.
            wait_s: Seconds to wait, as the server asks.
            status: Of HTTP; 0 if there was no answer.
        """
        super().__init__(reason)
        self.fault = fault
        self.reason = reason
        self.wait_s = wait_s
        self.status = status

    @property
    def says_unsupported(self) -> bool:
        """Whether its words are those for something unsupported, whatever its status is."""
        return self.status >= 400 and _SAYS_SO.search(self.reason) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as it is sent: its file, or its address."""

    file: bytes = b""
    uri: str = ""

    def address(self) -> str:
        """Return its address, or a data address with its content."""
        if self.uri:
            return self.uri
        return f"data:{media_type(self.file)};base64,{base64.b64encode(self.file).decode()}"

    def seed(self, seed: int) -> int:
        """Derive the seed for sampling its caption, as `image_seed` does for pixels."""
        content = f"{seed}:".encode() + (self.file or self.uri.encode())
        return int.from_bytes(hashlib.sha256(content).digest()[:8]) >> (64 - _SEED_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a run asks: the same for all its images."""

    model: str
    generation: GenerationConfig
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def allows(self, dialect: Dialect) -> bool:
        """Whether the settings do without what a dialect leaves out."""
        return dialect.temperature or not self.generation.sampling.enabled

    def body(self, picture: Picture, question: Question, dialect: Dialect) -> bytes:
        """Return the body of a request.

        The image comes first, so that servers can reuse its tokens for the next question about it.
        """
        content = [
            {"type": "image_url", "image_url": {"url": picture.address()}},
            {"type": "text", "text": question.text or INSTRUCTION},
        ]
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            dialect.length_field: question.max_new_tokens or self.generation.max_new_tokens,
            **self._search(picture, question),
        }
        if not dialect.temperature:
            del fields["temperature"]
        if not dialect.seed:
            fields.pop("seed", None)
        if dialect.logprobs:
            fields["logprobs"] = True
        if question.json_schema is not None and dialect.schemas:
            fields["response_format"] = answer_type(question.json_schema).response_format()
        fields |= self.extra_body
        return json.dumps({name: one for name, one in fields.items() if one is not None}).encode()

    def _search(self, picture: Picture, question: Question) -> dict[str, Any]:
        """Return how tokens are chosen; what only some servers know is left out at its default."""
        generation, sampling = self.generation, self.generation.sampling
        found: dict[str, Any] = {"temperature": 0.0}
        if sampling.enabled:
            seed = sampling.seed if question.seed is None else question.seed
            found = {"temperature": sampling.temperature, "seed": picture.seed(seed)}
            if sampling.top_p < 1:
                found["top_p"] = sampling.top_p
            if sampling.top_k is not None:
                found["top_k"] = sampling.top_k
        if generation.min_new_tokens:
            found["min_tokens"] = generation.min_new_tokens
        if generation.repetition_penalty != 1:
            found["repetition_penalty"] = generation.repetition_penalty
        return found


def completions_url(url: str) -> str:
    """Return the address for chat completions of a server, with or without `/v1` or all of it."""
    base, mark, query = url.strip().partition("?")
    base = base.rstrip("/")
    if not base.endswith(_COMPLETIONS):
        has_path = "/" in base.partition("://")[2]
        base = f"{base}{'' if has_path else '/v1'}{_COMPLETIONS}"
    return base + mark + query


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Caption:
    """Convert an answer to a caption.

    Raises:
        Refusal: it is none.
    """
    if status != 200:
        raise _refusal(status, headers, body)
    try:
        answer = json.loads(body)
        error = _error_within(answer)
        if error is not None:
            raise _refusal(_status_of(error), headers, json.dumps({"error": error}).encode())
        choice = answer["choices"][0]
        finish = _finish(choice)
        is_withheld = finish == FINISH_FILTERED and not choice.get("message")
        text = "" if is_withheld else _text(choice["message"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason = f"not an answer of chat completions: {_brief(body)}"
        raise Refusal(Fault.SERVER, reason, status=status) from None
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    logprob = _logprob(choice)
    return Caption(
        text=text,
        logprob=logprob,
        has_logprob=not math.isnan(logprob),
        finish=finish,
        num_tokens=_count(usage.get("completion_tokens")),
        num_prompt_tokens=_count(usage.get("prompt_tokens")),
    )


def one_line(text: str) -> str:
    """Return a server's words as one short line."""
    joined = " ".join(text.split())
    return joined if len(joined) <= _MESSAGE_CHARS else f"{joined[: _MESSAGE_CHARS - 3]}..."


def _error_within(answer: Any) -> Any:
    """Return the error that an answer with status 200 holds; None if there is none.

    Routers in front of other servers answer so when it is too late for a status.
    """
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    if not choices:
        return answer.get("error")
    choice = choices[0]
    if choice.get("finish_reason") != "error":
        return None
    return choice.get("error") or answer.get("error") or "finish_reason: error"


def _status_of(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    is_status = isinstance(code, int) and 400 <= code < 600
    return code if is_status else 500  # type: ignore[return-value]  # not narrowed by is_status


def _finish(choice: dict[str, Any]) -> str | None:
    """Return how an answer ended; one that a server replaced by a refusal was withheld."""
    message = choice.get("message")
    if isinstance(message, dict) and message.get("refusal"):
        return FINISH_FILTERED
    reason = str(choice.get("finish_reason")).lower()
    return _FINISHES.get(reason.partition(":")[0].strip())


def _text(message: dict[str, Any]) -> str:
    """Return the text of an answer; reasoning only if there is nothing else, in its usual tags."""
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or part.get("refusal") or "" for part in content)
    text = str(content).strip()
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{reasoning}</think>" if reasoning and not text else text


def _logprob(choice: dict[str, Any]) -> float:
    """Return the mean log-probability of the tokens; NaN if the server gives none."""
    try:
        values = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    except (LookupError, TypeError, ValueError):
        return math.nan
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else math.nan


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        return None
    return value


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    reason = f"HTTP {status}: {_message(body)}"
    wait_s = retry_after_s(headers.get("Retry-After"))
    fault = Fault.SERVER
    if 400 <= status < 500 and _NO_MONEY.search(reason + _brief(body)):
        fault, status = Fault.SETTINGS, 402
    elif status == 400 and _WRONG_KEY.search(reason):
        fault, status = Fault.SETTINGS, 401
    elif status in (429, 503, _OVERLOADED):
        fault = Fault.BUSY
    elif status in (400, 413, 415, 422):
        fault = Fault.REQUEST
    elif 300 <= status < 400:
        fault = Fault.SETTINGS
        reason = f"HTTP {status}: redirects to {headers.get('Location', 'nowhere')}"
    elif status in (401, 402, 403, 404, 405):
        fault = Fault.SETTINGS
    return Refusal(fault, reason, wait_s=wait_s, status=status)


def _message(body: bytes) -> str:
    """Return what a server says about an error, wherever it says so."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _brief(body)
    while isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail") or found
    if isinstance(found, dict):
        message, field_name = found.get("message"), found.get("param")
        found = message or found
        if isinstance(message, str) and isinstance(field_name, str) and field_name not in message:
            found = f"{message} ({field_name})"
    return one_line(found if isinstance(found, str) else json.dumps(found))


def _brief(body: bytes) -> str:
    text = body[: 16 * _MESSAGE_CHARS].decode(errors="replace")
    return one_line(_MARKUP.sub(" ", text)) or one_line(text) or "an empty answer"
