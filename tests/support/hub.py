"""A small server that answers like the Hugging Face Hub, and the files of a model for it."""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

MAIN, CONVERTED = "a" * 40, "b" * 40


def model_files() -> dict[str, bytes]:
    """Files that are complete to the eye; the weights are none."""
    config = {"model_type": "blip", "vision_config": {"image_size": 32}}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": b"weights",
        "preprocessor_config.json": json.dumps({"size": {"height": 32, "width": 32}}).encode(),
        "tokenizer.json": b"{}",
    }


@dataclass
class Hub:
    """Repositories by name, each with files by commit; a failure answers every request."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {"main": MAIN})
    discussions: list[dict[str, Any]] = field(default_factory=list)
    failure: tuple[int, str] | None = None
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]]) -> object:
        """Give the JSON of an API call."""
        # /api/models/org/blip/<kind>/<revision>
        kind, revision = [*path.split("/")[5:], "main"][:2]
        commit = self.refs.get(unquote(revision), revision)
        files = self.files[commit]
        match kind:
            case "revision":
                return {"id": "org/blip", "sha": commit, "siblings": []}
            case "tree":
                return [describe(name, content) for name, content in files.items()]
            case "paths-info":
                wanted = query["paths"]
                return [describe(name, files[name]) for name in wanted if name in files]
        found = self.discussions
        return {"discussions": found, "count": len(found), "start": 0}


def describe(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": etag(content)}


def etag(content: bytes) -> str:
    return f"{hash(content) & 2**64 - 1:040x}"


class HubServer(ThreadingHTTPServer):
    """Serves one `Hub` on a free port."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.hub = hub
        hub.url = f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the Hub does, for one repository `org/blip`."""

    def do_GET(self) -> None:
        hub: Hub = cast(HubServer, self.server).hub
        hub.requests.append(unquote(self.path))
        address = urlsplit(self.path)
        query = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        if hub.failure:
            self._send(hub.failure[0], b"{}", {"X-Error-Code": hub.failure[1]})
        elif address.path.startswith("/api/models/org/blip/"):
            answer = json.dumps(hub.answer(address.path, query)).encode()
            self._send(200, answer, {"Content-Type": "application/json"})
        else:
            *_, commit, name = address.path.split("/")
            content = hub.files[commit][name]
            self._send(200, content, {"ETag": etag(content), "X-Repo-Commit": commit})

    do_HEAD = do_GET
    do_POST = do_GET

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let this process take that address for the Hub, and that folder for its cache."""
    constants: Any = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
