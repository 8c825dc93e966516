"""Fetching models from the Hub, which is a small server here that answers like it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models.adapters import adapter_here
from raycap.models.hub import download
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support.hub import CONVERTED, MAIN, Hub, HubServer, model_files, use_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(files={MAIN: model_files()})
    with HubServer(served) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        use_hub(monkeypatch, served.url, tmp_path / "cache")
        yield served
        server.shutdown()


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
    with pytest.raises(ModelError) as caught:  # nor can these weights be loaded
        load_captioner(source, ModelConfig(), GenerationConfig())
    (snapshot,) = (tmp_path / "other node").glob("*/snapshots/*")
    assert snapshot.name == MAIN
    assert caught.value.uri == str(snapshot / "model.safetensors")


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
    """A repository whose safetensors are only in pull request 18 of the converter."""
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


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_conversion_is_looked_for_once_and_then_needs_no_network(
    pickled_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model("org/blip")
    pickled_hub.requests.clear()
    assert find_model("org/blip") == source
    assert not [request for request in pickled_hub.requests if "discussions" in request]
    offline(monkeypatch, tmp_path / "cache")
    assert find_model("org/blip") == source
    shutil.copytree(tmp_path / "cache", tmp_path / "node", symlinks=True)
    offline(monkeypatch, tmp_path / "node")
    copied = find_model("org/blip")
    assert copied.revision == source.revision
    assert str(copied.folder).startswith(str(tmp_path / "node"))
    assert download(source.name, source.revision) == Path(str(copied.folder))


def test_a_conversion_is_looked_for_again_when_the_main_branch_has_moved(pickled_hub: Hub) -> None:
    find_model("org/blip")
    newer = "c" * 40
    pickled_hub.files[newer] = dict(pickled_hub.files[MAIN])
    pickled_hub.refs["main"] = newer
    pickled_hub.requests.clear()
    assert find_model("org/blip").revision == CONVERTED
    assert [request for request in pickled_hub.requests if "discussions" in request]


@pytest.mark.usefixtures("pickled_hub")
def test_a_cache_without_a_record_is_enough_if_it_is_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model("org/blip")
    (record,) = (tmp_path / "cache").glob("*/raycap-conversion.json")
    record.unlink()
    offline(monkeypatch, tmp_path / "cache")
    assert find_model("org/blip") == source
    (main,) = (tmp_path / "cache").glob("*/refs/refs/pr/18")
    (main.parent / "19").write_text("d" * 40)  # without weights
    assert find_model("org/blip") == source
    main.unlink()
    with pytest.raises(ModelError) as caught:
        find_model("org/blip")
    assert "HF_HUB_OFFLINE" in str(caught.value)


@pytest.mark.usefixtures("pickled_hub")
def test_a_cache_of_the_conversion_alone_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `hf download org/blip --revision refs/pr/18` leaves it."""
    huggingface_hub.snapshot_download("org/blip", revision="refs/pr/18")
    offline(monkeypatch, tmp_path / "cache")
    source = find_model("org/blip")
    assert source.revision == CONVERTED


def test_what_was_never_downloaded_is_one_clear_line_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path / "cache")
    with pytest.raises(ModelError) as caught:
        find_model("org/blip")
    assert "HF_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_the_hub_brings_its_model(hub: Hub, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": f"org/blip@{MAIN}"}
    save_file({"lora_A.weight": torch.zeros(1, 4)}, tmp_path / "adapter.safetensors")
    hub.files[CONVERTED] = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": (tmp_path / "adapter.safetensors").read_bytes(),
    }
    hub.refs["lora"] = CONVERTED
    source = find_model("org/blip@lora")
    assert source.adapter is not None
    assert (source.revision, source.adapter.revision) == (MAIN, CONVERTED)
    assert adapter_here(source.adapter) == Path(source.adapter.folder)


def test_a_conversion_by_anybody_else_is_refused(pickled_hub: Hub) -> None:
    pickled_hub.discussions = [conversion(18, author="somebody")]
    with pytest.raises(ModelError, match="pickle"):
        find_model("org/blip")


def test_a_conversion_of_older_weights_is_refused(pickled_hub: Hub) -> None:
    pickled_hub.files[MAIN]["pytorch_model.bin"] = b"trained further"
    with pytest.raises(ModelError, match="pickle"):
        find_model("org/blip")


@pytest.mark.usefixtures("pickled_hub")
def test_a_revision_asked_for_is_not_replaced() -> None:
    with pytest.raises(ModelError, match="pickle"):
        find_model("org/blip@main")
    assert find_model("org/blip@refs/pr/18").revision == CONVERTED


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "private"),
        (404, "RepoNotFound", "private"),
        (403, "GatedRepo", "terms"),
        (404, "RevisionNotFound", "'v9'"),
        (500, "", "HF_HUB_OFFLINE"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    status: int, code: str, message: str, hub: Hub
) -> None:
    hub.failure = (status, code)
    with pytest.raises(ModelError, match=message) as caught:
        find_model("org/blip@v9")
    assert caught.value.uri == "org/blip"
    assert "\n" not in str(caught.value)
    assert code == "RevisionNotFound" or "--model demo" in str(caught.value)


def test_no_way_to_the_hub_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE") as caught:
        find_model("org/blip")
    assert "--model demo" in str(caught.value)
    assert "\n" not in str(caught.value)
