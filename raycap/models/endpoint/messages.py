"""Requests to chat completions and their answers, as OpenAI defined them. Does no I/O.

Servers differ in what they support, and answer what they refuse with a text. Only what raycap can
do without is recognised in such texts: log-probabilities, JSON schemas, and the old name of
`max_completion_tokens`.
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

from raycap.answers.typed import answer_type
from raycap.config import GenerationConfig
from raycap.images.encoding import media_type
from raycap.models.base import Caption, Question
from raycap.storage.base import retry_after_s

INSTRUCTION = "Describe this image in one sentence."
"""The prompt if none is set, as for vision-language models that run in raycap."""

_COMPLETIONS = "/chat/completions"
_FINISHES = ("stop", "length", "content_filter")
_SEED_BITS = 31  # llama.cpp reads 32 bits, and OpenAI a signed number
_MESSAGE_CHARS = 300
_NO_MONEY = re.compile(r"insufficient_quota|billing_hard_limit|credit balance", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between servers; learned from their refusals."""

    logprobs: bool = True
    """Whether to ask for log-probabilities."""
    length_field: str = "max_tokens"
    """The field for the maximum number of tokens."""
    schemas: bool = True
    """Whether to send JSON schemas; answers are checked anyway."""

    def understood(self, refusal: str) -> "Dialect | None":
        """Return the dialect without what a server has refused; None if that is the same one."""
        if self.length_field == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(self, length_field="max_completion_tokens")
        if self.logprobs and re.search(r"log_?prob", refusal, re.IGNORECASE):
            return replace(self, logprobs=False)
        if self.schemas and re.search(r"response_format|json_schema", refusal, re.IGNORECASE):
            return replace(self, schemas=False)
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
        choice = answer["choices"][0]
        text = _text(choice["message"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason = f"not an answer of chat completions: {_brief(body)}"
        raise Refusal(Fault.SERVER, reason, status=status) from None
    finish = choice.get("finish_reason")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    logprob = _logprob(choice)
    return Caption(
        text=text,
        logprob=logprob,
        has_logprob=not math.isnan(logprob),
        finish=finish if finish in _FINISHES else None,
        num_tokens=_count(usage.get("completion_tokens")),
        num_prompt_tokens=_count(usage.get("prompt_tokens")),
    )


def one_line(text: str) -> str:
    """Return a server's words as one short line."""
    joined = " ".join(text.split())
    return joined if len(joined) <= _MESSAGE_CHARS else f"{joined[: _MESSAGE_CHARS - 3]}..."


def _text(message: dict[str, Any]) -> str:
    """Return the text of an answer; reasoning only if there is nothing else, in its usual tags."""
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
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
    if status == 429 and _NO_MONEY.search(reason + _brief(body)):
        fault = Fault.SETTINGS
    elif status in (429, 503):
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
        found = found.get("message") or found
    return one_line(found if isinstance(found, str) else json.dumps(found))


def _brief(body: bytes) -> str:
    return one_line(body[: 4 * _MESSAGE_CHARS].decode(errors="replace")) or "an empty answer"
