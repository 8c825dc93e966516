"""A small server that takes datasets as the Hugging Face Hub does, and counts what it is sent."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from tests.support.hub import use_hub

GIT_ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
TOKEN = "hf_planted_token"


@dataclass
class DatasetHub:
    """One account's dataset repositories: their files by path."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Contents of large files by SHA-256, uploaded but perhaps not committed."""
    commits: list[list[str]] = field(default_factory=list)
    """The changed paths of each commit, in order."""
    num_content_bytes: int = 0
    """Bytes of files that were sent, in whatever way."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Status to answer requests with whose path begins so."""
    fails_after: int | None = None
    """Commits after which every further commit is refused."""
    tokens: set[str] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)

    def create(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{request['organization']}/{request['name']}"
        answer = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repositories:
            return 409, answer
        self.repositories[name] = {".gitattributes": GIT_ATTRIBUTES}
        self.private[name] = request.get("visibility", "public") == "private"
        return 200, answer

    def tree(self, name: str) -> list[dict[str, Any]]:
        return [_described(path, data) for path, data in self.repositories[name].items()]

    def preupload(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        files = self.repositories[name]
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if _is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(one["path"], files[one["path"]]) if one["path"] in files else None,
                }
                for one in request["files"]
            ]
        }

    def batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say where to put the large files that are not there yet."""
        objects = []
        for one in request["objects"]:
            upload = {"href": f"{self.url}/lfs/{one['oid']}"}
            actions = {} if one["oid"] in self.objects else {"actions": {"upload": upload}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    def put(self, oid: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == oid
        self.objects[oid] = data
        self.num_content_bytes += len(data)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        files = self.repositories[name]
        changed = []
        for line in lines[1:]:
            value = line["value"]
            changed.append(value["path"])
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    self.num_content_bytes += len(files[value["path"]])
                case "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.commits.append(changed)
        oid = f"{len(self.commits):040x}"
        return {"commitUrl": f"{self.url}/datasets/{name}/commit/{oid}", "commitOid": oid}


def _is_large(path: str) -> bool:
    return path.endswith(".parquet")


def _oid(path: str, data: bytes) -> str:
    if _is_large(path):
        return hashlib.sha256(data).hexdigest()
    return _sha1(f"blob {len(data)}\0".encode() + data)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _described(path: str, data: bytes) -> dict[str, Any]:
    found = {"type": "file", "path": path, "size": len(data), "oid": _oid(path, data)}
    if not _is_large(path):
        return found
    # The id of a large file in Git is that of its pointer.
    large = {"oid": found["oid"], "size": len(data), "pointerSize": 134}
    return {**found, "oid": _sha1(b"pointer" + data), "lfs": large}


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: DatasetHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        hub.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> DatasetHub:
        return cast(_Server, self.server).hub

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._body())

    do_PUT = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = bytearray()
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(found)

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
            refusal = next((s for p, s in self.hub.refusals.items() if path.startswith(p)), None)
            if refusal is not None:
                self._send(refusal, b'{"error": "refused"}')
            elif path.startswith("/lfs/"):
                self.hub.put(path.rpartition("/")[2], body)
                self._send(200, b"")
            elif "/resolve/" in path:
                self._send_file(path)
            else:
                self._send(*self._api(path, body))

    def _api(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a call of the API with a status and JSON."""
        if path == "/api/repos/create":
            status, answer = self.hub.create(json.loads(body))
            return status, json.dumps(answer).encode()
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return 200, b"{}"
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, json.dumps(self.hub.batch(json.loads(body))).encode()
        if not path.startswith("/api/datasets/"):
            return 404, b"{}"
        # /api/datasets/user/name/<kind>/main
        _, _, _, user, repository, kind, *_ = [*path.split("/"), ""]
        status, answer = self._repository(f"{user}/{repository}", kind, body)
        return status, json.dumps(answer).encode()

    def _repository(self, name: str, kind: str, body: bytes) -> tuple[int, Any]:
        if name not in self.hub.repositories:
            return 404, {"error": "not found"}
        match kind:
            case "tree":
                return 200, self.hub.tree(name)
            case "preupload":
                return 200, self.hub.preupload(name, json.loads(body))
            case "commit" if len(self.hub.commits) != self.hub.fails_after:
                return 200, self.hub.commit(name, [json.loads(line) for line in body.splitlines()])
        return 500, {"error": f"cannot answer {kind}"}

    def _send_file(self, path: str) -> None:
        # /datasets/user/name/resolve/main/README.md
        _, _, user, name, _, _, *key = path.split("/")
        data = self.hub.repositories[f"{user}/{name}"]["/".join(key)]
        self._send(200, data, {"ETag": _oid("/".join(key), data), "X-Repo-Commit": "c" * 40})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def dataset_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[DatasetHub]:
    """Give a Hub that this process talks to, with a token where users have it."""
    hub = DatasetHub()
    constants: Any = huggingface_hub.constants
    with _Server(hub) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        use_hub(monkeypatch, hub.url, folder / "cache")
        # The protocol of its storage is not imitated: files go the way that Git LFS has.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        server.shutdown()
