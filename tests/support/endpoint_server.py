"""A server of chat completions for tests: with a planted capacity, and planted faults.

It runs in a thread, or as a process of its own that can be killed:
`python -m tests.support.endpoint_server PORT LOG PLAN`. What it was asked and what it answered is
in the log, one line each, which outlives it.
"""

import asyncio
import base64
import hashlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parents[2]

_UNSUPPORTED = {
    "logprobs": "You are not allowed to request logprobs from this model",
    "response_format": "Invalid parameter: 'response_format' is not supported",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model.",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a server behaves."""

    latency_s: float = 0.0
    slots: int | None = None
    """Requests that it works on at a time; others wait."""
    refuses_above: int | None = None
    """Requests at a time above which it answers 429."""
    fault: str | None = None
    """`hang`, `drop` (the connection), `garbage`, `no_choices`, or a status such as `500`."""
    share: float = 1.0
    """Of the requests that meet the fault."""
    first: int = 0
    """Requests before the first that meets the fault."""
    last: int | None = None
    """The last request that meets the fault; None: there is no end."""
    message: str = "planted"
    retry_after: str | None = None
    key: str | None = None
    """Required, if set."""
    model: str | None = "tiny"
    """Its model; None: whatever is asked for."""
    rejected: tuple[str, ...] = ()
    """Digests of images that get 400."""
    supports: tuple[str, ...] = ("image", *_UNSUPPORTED)
    unsupported_status: int = 400
    answer: dict[str, Any] | None = None
    """Updates the message of the answer."""
    finish: str = "stop"
    hangs_on: str | None = None
    """A question that is never answered."""
    fails_on: str | None = None
    """A field of requests to which it answers 500."""
    rejects_from: int | None = None
    """The first request from which on it answers 400."""


class EndpointServer:
    """The server, on a port of this machine."""

    def __init__(self, plan: Plan, log: Path | None = None) -> None:
        self.plan = plan
        self.asked: list[dict[str, Any]] = []
        """Bodies of the requests that it did not refuse for their key."""
        self.asked_images: list[str] = []
        self.paid_images: list[str] = []
        """Digests of the images whose answers were sent."""
        self.headers: list[dict[str, str]] = []
        self.most_at_a_time = 0
        self._log = log
        self._num_requests = self._num_inside = 0
        self._slots = asyncio.Semaphore(plan.slots or 10**6)
        self._random = random.Random(1)

    def application(self) -> web.Application:
        found = web.Application(client_max_size=2**28)
        found.router.add_post("/v1/chat/completions", self._complete)
        return found

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        plan = self.plan
        self.headers.append(dict(request.headers))
        if plan.key and request.headers.get("Authorization") != f"Bearer {plan.key}":
            given = request.headers.get("Authorization", "none")
            return _error(401, f"Incorrect API key provided: {given}")
        body = await request.json()
        self._num_requests += 1
        number = self._num_requests
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        self._num_inside += 1
        self.most_at_a_time = max(self.most_at_a_time, self._num_inside)
        try:
            if plan.refuses_above is not None and self._num_inside > plan.refuses_above:
                return self._busy()
            is_met = number > plan.first and (plan.last is None or number <= plan.last)
            if plan.fault and is_met and self._random.random() < plan.share:
                return await self._fault(request, body)
            if plan.hangs_on and plan.hangs_on in caption_of(body).split():
                await asyncio.sleep(3600)
            return await self._answer(body)
        finally:
            self._num_inside -= 1

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        if self.plan.model not in (None, body["model"]):
            return _error(404, f"The model `{body['model']}` does not exist.")
        if "image" not in self.plan.supports:
            return _error(400, "This model does not support image input.")
        for name, refusal in _UNSUPPORTED.items():
            if name in body and name not in self.plan.supports:
                return _error(self.plan.unsupported_status, refusal)
        if self.plan.fails_on in body:
            return _error(500, "Internal server error")
        if self._num_requests >= (self.plan.rejects_from or math.inf):
            return _error(400, "No models loaded.")
        digest = image_digest(body)
        if digest in self.plan.rejected:
            return _error(400, "The image cannot be processed.")
        return None

    async def _fault(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = str(self.plan.fault)
        if fault.isdecimal():
            return self._busy(int(fault))
        self._note("asked", body)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self._note("paid", body)
        return web.Response(text="<html>no" if fault == "garbage" else '{"choices": []}')

    async def _answer(self, body: dict[str, Any]) -> web.Response:
        self._note("asked", body)
        async with self._slots:
            if self.plan.latency_s:
                await asyncio.sleep(self.plan.latency_s)
        self._note("paid", body)
        return web.json_response(self._completion(body))

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        text = caption_of(body)
        message = {"role": "assistant", "content": text, **(self.plan.answer or {})}
        choice = {"index": 0, "message": message, "finish_reason": self.plan.finish}
        if body.get("logprobs"):
            tokens = [{"token": word, "logprob": -0.25} for word in text.split()]
            choice["logprobs"] = {"content": tokens}
        usage = {"prompt_tokens": 100, "completion_tokens": len(text.split())}
        return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}

    def _busy(self, status: int = 429) -> web.Response:
        given = {"Retry-After": self.plan.retry_after} if self.plan.retry_after else {}
        return _error(status, self.plan.message, given)

    def _note(self, event: str, body: dict[str, Any]) -> None:
        digest = image_digest(body)
        if event == "asked":
            self.asked.append(body)
            self.asked_images.append(digest)
        else:
            self.paid_images.append(digest)
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{event} {digest}\n")


def image_digest(body: dict[str, Any]) -> str:
    """Return the digest of the image in a request, or its address."""
    (image,) = [one for one in body["messages"][0]["content"] if one["type"] == "image_url"]
    url = image["image_url"]["url"]
    if not url.startswith("data:image/"):
        return str(url)
    return digest_of(base64.b64decode(url.partition(",")[2]))


def digest_of(file: bytes) -> str:
    """Return the digest by which the server calls an image."""
    return hashlib.sha256(file).hexdigest()[:16]


def caption_of(body: dict[str, Any]) -> str:
    """Return the answer of the server, which names the image and the question."""
    texts = [one["text"] for one in body["messages"][0]["content"] if one["type"] == "text"]
    return f"image {image_digest(body)} on {' '.join(texts)}"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


@contextmanager
def endpoint_server(
    plan: Plan | None = None, **changes: Any
) -> Iterator[tuple[EndpointServer, str]]:
    """Run a server in a thread; yield it and its address."""
    server = EndpointServer(replace(plan or Plan(), **changes))
    loop = asyncio.new_event_loop()
    started, address = Event(), ""
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal address
        runner = web.AppRunner(server.application(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stop.wait()
        await runner.cleanup()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    thread = Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield server, address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own."""

    url: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """End it at once, with everything that it works on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def counted(self, event: str) -> Counter[str]:
        """Count `asked` or `paid` requests by image."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[1] for line in lines if line.split()[0] == event)


@contextmanager
def server_process(port: int, log: Path, plan: Plan) -> Iterator[ServerProcess]:
    """Run a server in a process, and end it."""
    arguments = [str(port), str(log), json.dumps(asdict(plan))]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.endpoint_server", *arguments], cwd=ROOT
    ) as process:
        found = ServerProcess(f"http://127.0.0.1:{port}", log, process)
        try:
            _wait_for(found)
            yield found
        finally:
            process.kill()


def _wait_for(server: ServerProcess) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            assert server.process.poll() is None
            time.sleep(0.05)


def main() -> None:
    """Serve on a port until the process is killed."""
    port, log, plan = sys.argv[1:]
    described = json.loads(plan)
    described |= {name: tuple(described[name]) for name in ("rejected", "supports")}
    server = EndpointServer(Plan(**described), Path(log))
    web.run_app(server.application(), host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main()
