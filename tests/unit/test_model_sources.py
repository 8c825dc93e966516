"""Finding, checking and identifying models; the Hub is a small server that answers like it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import numpy as np
import pytest
import torch

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images import Target
from raycap.models.base import ModelSource
from raycap.models.folders import read_preprocessing, write_json
from raycap.models.load import load_captioner
from raycap.models.sources import DEMO_FOLDER, find_model
from raycap.models.stub import StubCaptioner

MAIN, CONVERTED = "a" * 40, "b" * 40
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Edit = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is complete to the eye; its weights are never loaded here."""
    model = tmp_path / "model"
    model.mkdir()
    for name, content in model_files().items():
        (model / name).write_bytes(content)
    return model


def model_files() -> dict[str, bytes]:
    config = {"model_type": "blip", "vision_config": {"image_size": 32}}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": b"weights",
        "preprocessor_config.json": json.dumps({"size": {"height": 32, "width": 32}}).encode(),
        "tokenizer.json": b"{}",
    }


def edit_json(name: str, **changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / name
        write_json(file, (json.loads(file.read_text()) if file.is_file() else {}) | changes)

    return edit


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


# Local folders


def test_a_folder_is_found_and_identified(folder: Path) -> None:
    source = find_model(str(folder))
    assert source == ModelSource(
        kind="blip",
        name=str(folder),
        revision=None,
        folder=str(folder.resolve()),
        digest=source.digest,
        target=Target(width_px=32, height_px=32, resample="bicubic"),
    )
    assert len(source.digest) == 64


def test_a_relative_folder_is_found_with_and_without_a_dot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("model", "./model", "~/model"):
        assert find_model(name).folder == str(folder.resolve())


@pytest.mark.parametrize(
    "edit",
    [
        edit_json("config.json", text_config={"num_hidden_layers": 1}),
        edit_json("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
        edit_json("tokenizer_config.json", do_lower_case=False),
        lambda folder: (folder / "model.safetensors").write_bytes(b"others"),
        lambda folder: (folder / "more.safetensors").write_bytes(b"more"),
    ],
)
def test_the_digest_covers_all_that_decides_a_caption(edit: Edit, folder: Path) -> None:
    before = find_model(str(folder)).digest
    edit(folder)
    assert find_model(str(folder)).digest != before


def test_the_digest_ignores_what_does_not(folder: Path) -> None:
    before = find_model(str(folder)).digest
    edit_json("generation_config.json", num_beams=9)(folder)
    edit_json("raycap.json", kind="blip")(folder)
    (folder / "README.md").write_text("about it")
    assert find_model(str(folder)).digest == before


def test_preprocessing_may_stand_in_a_saved_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    edit_json("processor_config.json", image_processor={"size": 32, "resample": 2})(folder)
    assert find_model(str(folder)).target == Target(width_px=32, height_px=32, resample="bilinear")


def test_steps_switched_off_are_neutral(folder: Path) -> None:
    assert read_preprocessing(folder).std == CLIP_STD
    edit_json("preprocessor_config.json", do_normalize=False, do_rescale=False)(folder)
    found = read_preprocessing(folder)
    assert (found.rescale, found.mean, found.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


SHORTEST = edit_json("preprocessor_config.json", size={"shortest_edge": 32})
FAULTS: dict[str, tuple[Edit, str]] = {
    "no config": (remove("config.json"), "no config.json: point at the folder"),
    "corrupt config": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json: cannot be read as JSON",
    ),
    "list config": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json: must hold a JSON object",
    ),
    "binary config": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
        "config.json: cannot be read as JSON",
    ),
    "another model": (edit_json("config.json", model_type="vit"), "kind 'vit'; .*kinds: blip"),
    "no model type": (edit_json("config.json", model_type=None), "kind None; .*kinds: blip"),
    "another kind": (edit_json("raycap.json", kind="hybrid"), "kind 'hybrid'; .*kinds: blip"),
    "another task": (
        edit_json("config.json", architectures=["BlipForQuestionAnswering"]),
        "BlipForQuestionAnswering, which does not caption",
    ),
    "pickle": (pickled, r"only pickled weights \(pytorch_model.bin\), .* can run code"),
    "no weights": (remove("model.safetensors"), "no model.safetensors: save the model"),
    "weights not a file": (
        lambda folder: (folder / "more.safetensors").mkdir(),
        "more.safetensors: cannot be read",
    ),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer .*save_pretrained"),
    "no preprocessor": (remove("preprocessor_config.json"), "no preprocessor_config.json"),
    "another size": (
        edit_json("preprocessor_config.json", size=48),
        r"makes 48x48 pixels, but the weights are for 32x32",
    ),
    "open size": (SHORTEST, "is not a fixed height and width"),
    "bad size": (edit_json("preprocessor_config.json", size=[0, 0]), "is not a fixed height"),
    "bad vision": (edit_json("config.json", vision_config=[1]), "vision_config must be"),
    "bad filter": (edit_json("preprocessor_config.json", resample=77), "not settings of"),
    "bad mean": (edit_json("preprocessor_config.json", image_mean=[1]), "three numbers"),
    "bad std": (edit_json("preprocessor_config.json", image_std=[1, 0, 1]), "std not 0"),
    "bad numbers": (edit_json("preprocessor_config.json", image_std=3), "not settings of"),
}


@pytest.mark.parametrize(("edit", "message"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_folder_is_one_clear_line(edit: Edit, message: str, folder: Path) -> None:
    edit(folder)
    with pytest.raises(ModelError, match=message) as caught:
        find_model(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "~nobody/model"])
def test_a_path_is_never_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        find_model(name)


def test_a_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        find_model(str(folder / "config.json"))


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "a@", "s3://bucket/model"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="not a model: give a local folder"):
        find_model(name)


# Built-in models


def test_the_stub_is_small_and_needs_no_files() -> None:
    source = find_model("stub")
    assert (source.kind, source.folder, source.revision) == ("stub", None, None)
    assert source.target == Target(width_px=64, height_px=64)
    captioner = load_captioner(source, ModelConfig(name="stub"), GenerationConfig())
    assert isinstance(captioner, StubCaptioner)
    assert captioner.target == source.target


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """So small a model is far slower on two threads where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.skipif(not DEMO_FOLDER.is_dir(), reason="the demo model is not built")
def test_the_demo_model_is_found_and_loads() -> None:
    source = find_model("demo")
    assert (source.kind, source.name, source.revision) == ("blip", "demo", None)
    # Another node may have raycap installed elsewhere.
    elsewhere = replace(source, folder="/nowhere")
    captioner = load_captioner(elsewhere, ModelConfig(name="demo"), GenerationConfig())
    assert captioner.target == source.target
    shape = (1, source.target.height_px, source.target.width_px, 3)
    (caption,) = captioner.caption(np.zeros(shape, np.uint8))
    assert caption.text


# On a worker


def test_a_folder_that_a_node_lacks_is_named(folder: Path) -> None:
    source = find_model(str(folder))
    folder.rename(folder.parent / "moved")
    with pytest.raises(ModelError, match="not on this node: put it at the same path on every"):
        load_captioner(source, ModelConfig(), GenerationConfig())


def test_a_folder_that_changed_is_refused(folder: Path) -> None:
    source = find_model(str(folder))
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ModelError, match="not the model this run started with"):
        load_captioner(source, ModelConfig(), GenerationConfig())


def test_an_unknown_kind_is_refused() -> None:
    source = replace(find_model("stub"), kind="hybrid")
    with pytest.raises(ModelError, match="no captioner of kind 'hybrid'; there are: blip, stub"):
        load_captioner(source, ModelConfig(), GenerationConfig())


# The Hub


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(files={MAIN: model_files()})
    with HubServer(served) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        use_hub(monkeypatch, served.url, tmp_path / "cache")
        yield served
        server.shutdown()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    constants: Any = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def test_a_hub_model_is_pinned_to_its_commit(hub: Hub) -> None:
    hub.files[MAIN] |= {"pytorch_model.bin": b"pickle", "notes.md": b"about", "run.py": b"code"}
    source = find_model("org/blip")
    assert (source.name, source.revision, source.kind) == ("org/blip", MAIN, "blip")
    assert {path.name for path in Path(source.folder or "").iterdir()} == set(model_files())
    assert source.digest == find_model(source.folder or "").digest


def test_a_revision_is_resolved(hub: Hub) -> None:
    hub.refs["v2"] = CONVERTED
    hub.files[CONVERTED] = model_files() | {"model.safetensors": b"second"}
    second = find_model("org/blip@v2")
    assert (second.name, second.revision) == ("org/blip", CONVERTED)
    assert find_model(f"org/blip@{CONVERTED}") == second
    assert find_model("org/blip").digest != second.digest


@pytest.mark.usefixtures("hub")
def test_a_cached_model_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_model("org/blip")
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert find_model("org/blip") == source


def test_a_node_without_the_files_fetches_the_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model("org/blip")
    use_hub(monkeypatch, hub.url, tmp_path / "other node")
    hub.refs["main"] = CONVERTED  # the branch has moved on since
    with pytest.raises(ModelError, match="cannot be loaded as BLIP"):  # nor can these weights be
        load_captioner(source, ModelConfig(), GenerationConfig())
    (snapshot,) = (tmp_path / "other node").glob("*/snapshots/*")
    assert snapshot.name == MAIN


def conversion(num: int, author: str = "SFconvertbot") -> dict[str, Any]:
    return {
        "num": num,
        "title": "Adding `safetensors` variant of this model",
        "author": {"name": author},
        "createdAt": "2024-01-01T00:00:00.000Z",
        "status": "open",
        "isPullRequest": True,
        "repo": {"name": "org/blip", "type": "model"},
    }


@pytest.fixture
def pickled_hub(hub: Hub) -> Hub:
    """A repository whose safetensors stand in the converter's pull request 18 alone."""
    hub.files[CONVERTED] = {**model_files(), "pytorch_model.bin": b"pickle"}
    hub.files[MAIN] = dict(hub.files[CONVERTED])
    del hub.files[MAIN]["model.safetensors"]
    hub.refs["refs/pr/18"] = CONVERTED
    hub.discussions = [conversion(18)]
    return hub


def test_the_hubs_own_conversion_stands_in_for_a_pickle(pickled_hub: Hub) -> None:
    source = find_model("org/blip")
    assert source.revision == CONVERTED
    assert not any("/pytorch_model.bin" in request for request in pickled_hub.requests)


def test_a_conversion_by_anybody_else_is_refused(pickled_hub: Hub) -> None:
    pickled_hub.discussions = [conversion(18, author="somebody")]
    with pytest.raises(ModelError, match="pickled weights, which can run code"):
        find_model("org/blip")


def test_a_conversion_of_older_weights_is_refused(pickled_hub: Hub) -> None:
    pickled_hub.files[MAIN]["pytorch_model.bin"] = b"trained further"
    with pytest.raises(ModelError, match="pickled weights, which can run code"):
        find_model("org/blip")


@pytest.mark.usefixtures("pickled_hub")
def test_a_revision_asked_for_is_not_replaced() -> None:
    with pytest.raises(ModelError, match="pickled weights, which can run code"):
        find_model("org/blip@main")
    assert find_model("org/blip@refs/pr/18").revision == CONVERTED


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "neither a local folder nor a model on the Hub"),
        (404, "RepoNotFound", "neither a local folder nor a model on the Hub"),
        (403, "GatedRepo", "accept them on the model's page"),
        (404, "RevisionNotFound", "no revision 'v9' on the Hub"),
        (500, "", "cannot be fetched from the Hub .*check the network"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    status: int, code: str, message: str, hub: Hub
) -> None:
    hub.failure = (status, code)
    with pytest.raises(ModelError, match=message) as caught:
        find_model("org/blip@v9")
    assert "\n" not in str(caught.value)
    assert code == "RevisionNotFound" or "--model demo works offline" in str(caught.value)


def test_no_way_to_the_hub_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(ModelError, match="cannot be fetched from the Hub") as caught:
        find_model("org/blip")
    assert "--model demo works offline" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_finding_a_model_loads_no_torch() -> None:
    program = (
        "import sys, raycap.models.sources, raycap.models.load; "
        "raycap.models.sources.find_model('stub'); "
        "print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
