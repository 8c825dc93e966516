"""Finding, checking and identifying models in folders, and the built-in ones."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.models.base import ModelSource
from raycap.models.folders import read_preprocessing, write_json
from raycap.models.load import load_captioner
from raycap.models.sources import DEMO_FOLDER, find_model
from raycap.models.stub import StubCaptioner
from tests.support.hub import model_files

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


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FAULTS: dict[str, tuple[Edit, str, str]] = {
    # The edit, the file that the error is about ("" for the folder), and a word of the message.
    "no config": (remove(CONFIG), "", CONFIG),
    "corrupt config": (lambda folder: (folder / CONFIG).write_text("{"), CONFIG, "JSON"),
    "list config": (lambda folder: (folder / CONFIG).write_text("[]"), CONFIG, "JSON object"),
    "binary config": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), CONFIG, "JSON"),
    "another model": (edit_json(CONFIG, model_type="vit"), "", "'vit'"),
    "no model type": (edit_json(CONFIG, model_type=None), "", "None"),
    "another kind": (edit_json("raycap.json", kind="gru"), "", "'gru'"),
    "two kinds": (edit_json("raycap.json", kind="hybrid"), "", "'hybrid' by raycap.json"),
    "another task": (
        edit_json(CONFIG, architectures=["BlipForQuestionAnswering"]),
        "",
        "BlipForQuestionAnswering",
    ),
    "pickle": (pickled, "", "pytorch_model.bin"),
    "no weights": (remove("model.safetensors"), "", "no model.safetensors"),
    "weights not a file": (
        lambda folder: (folder / "more.safetensors").mkdir(),
        "more.safetensors",
        "",
    ),
    "no tokenizer": (remove("tokenizer.json"), "", "tokenizer"),
    "no preprocessor": (remove(PREPROCESSOR), "", PREPROCESSOR),
    "another size": (edit_json(PREPROCESSOR, size=48), "", "48x48"),
    "open size": (edit_json(PREPROCESSOR, size={"shortest_edge": 32}), PREPROCESSOR, "size"),
    "bad size": (edit_json(PREPROCESSOR, size=[0, 0]), PREPROCESSOR, "size"),
    "bad vision": (edit_json(CONFIG, vision_config=[1]), CONFIG, "vision_config"),
    "bad filter": (edit_json(PREPROCESSOR, resample=77), PREPROCESSOR, "77"),
    "bad mean": (edit_json(PREPROCESSOR, image_mean=[1]), PREPROCESSOR, "image_mean"),
    "bad std": (edit_json(PREPROCESSOR, image_std=[1, 0, 1]), PREPROCESSOR, "std"),
    "bad numbers": (edit_json(PREPROCESSOR, image_std=3), PREPROCESSOR, ""),
}


@pytest.mark.parametrize(("edit", "file", "word"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_folder_is_one_clear_line(edit: Edit, file: str, word: str, folder: Path) -> None:
    edit(folder)
    with pytest.raises(ModelError) as caught:
        find_model(str(folder))
    assert caught.value.uri == str(folder / file)
    assert word in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "~nobody/model"])
def test_a_path_is_never_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_model(name)
    assert caught.value.uri == name


def test_a_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(str(folder / "config.json"))
    assert caught.value.uri == str(folder / "config.json")


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "a@", "s3://bucket/model"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="stub") as caught:
        find_model(name)
    assert caught.value.uri == name


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
    """A small model is far slower on two threads if other processes use the cores."""
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
    with pytest.raises(ModelError) as caught:
        load_captioner(source, ModelConfig(), GenerationConfig())
    assert caught.value.uri == str(folder)


def test_a_folder_that_changed_is_refused(folder: Path) -> None:
    source = find_model(str(folder))
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ModelError) as caught:
        load_captioner(source, ModelConfig(), GenerationConfig())
    assert caught.value.uri == str(folder), "not its file, which cannot be read either"


def test_an_unknown_kind_is_refused() -> None:
    source = replace(find_model("stub"), kind="gru")
    with pytest.raises(ModelError, match="'gru'"):
        load_captioner(source, ModelConfig(), GenerationConfig())
