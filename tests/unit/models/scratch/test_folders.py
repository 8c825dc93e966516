"""The folders of captioners trained from scratch: found, identified, and refused where faulty."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from raycap.config import ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.folders import write_json
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support.tiny_scratch import BEAMS, GREEDY, KINDS, SIDE_PX, build, one_thread

__all__ = ["one_thread"]

Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformer")
    build("transformer", num_layers=1).save(folder, BEAMS, {"epoch": 3})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit_json(name: str, **changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        write_json(folder / name, json.loads((folder / name).read_text()) | changes)

    return edit


def edit_architecture(**changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        edit_json("config.json", architecture=config["architecture"] | changes)(folder)

    return edit


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def without_a_weight(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights.pop("decoder.norm.weight")
    safetensors.torch.save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_found_and_identified(kind: str, tmp_path: Path) -> None:
    build(kind, num_layers=1).save(tmp_path, BEAMS, {})
    source = find_model(str(tmp_path))
    assert (source.kind, source.folder) == (kind, str(tmp_path.resolve()))
    assert source.target == Target(width_px=SIDE_PX, height_px=SIDE_PX)
    assert source.generation == BEAMS
    assert len(source.digest) == 64


def test_a_folder_holds_what_a_hugging_face_folder_holds(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "raycap.json",
        "tokenizer.json",
    }
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["num_beams"], generation["max_new_tokens"]) == (3, 30)
    assert [generation[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 2, 3]
    record = json.loads((folder / "raycap.json").read_text())
    assert (record["kind"], record["training"]) == ("transformer", {"epoch": 3})


@pytest.mark.parametrize(
    "edit",
    [
        edit_architecture(num_heads=2),  # the weights fit it, too
        edit_json("preprocessor_config.json", image_mean=[0.4, 0.5, 0.5]),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        without_a_weight,
    ],
)
def test_the_digest_covers_all_that_decides_a_caption(edit: Edit, folder: Path) -> None:
    before = find_model(str(folder)).digest
    edit(folder)
    assert find_model(str(folder)).digest != before


def test_the_digest_ignores_what_does_not(folder: Path) -> None:
    before = find_model(str(folder)).digest
    edit_json("raycap.json", training={"epoch": 9})(folder)
    edit_json("generation_config.json", num_beams=9)(folder)
    assert find_model(str(folder)).digest == before


FOUND_FAULTS: dict[str, tuple[Edit, str]] = {
    "contradiction": (
        edit_json("raycap.json", kind="hybrid"),
        r"'hybrid' .*raycap\.json",
    ),
    "unknown kind": (edit_json("config.json", model_type="gru"), "'gru'"),
    "no architecture": (
        edit_json("config.json", architecture=None),
        r"config\.json: architecture: ",
    ),
    "bad value": (edit_architecture(width="wide"), r"architecture\.width: "),
    "unknown setting": (edit_architecture(colour=1), r"architecture\.colour: "),
    "bad heads": (edit_architecture(num_heads=5), "num_heads=5 .*width=96"),
    "bad vocabulary": (edit_json("config.json", vocabulary_size="x"), "vocabulary_size .*'x'"),
    "no weights": (remove("model.safetensors"), r"model\.safetensors"),
    "pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"),
        r"\(model\.bin\)",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"tokenizer\.json"),
    "no preprocessor": (remove("preprocessor_config.json"), r"preprocessor_config\.json"),
    "another size": (
        edit_json("preprocessor_config.json", size=32),
        "32x32 .* 48x48",
    ),
}


@pytest.mark.parametrize(("edit", "fact"), FOUND_FAULTS.values(), ids=FOUND_FAULTS)
def test_a_faulty_folder_is_one_clear_line(edit: Edit, fact: str, folder: Path) -> None:
    edit(folder)
    with pytest.raises(ModelError, match=fact) as caught:
        find_model(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


LOADED_FAULTS: dict[str, tuple[Edit, str, str]] = {  # with the file at fault, and a fact
    "broken weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"none"),
        "model.safetensors",
        "",
    ),
    "missing weight": (without_a_weight, "", r"transformer .*norm\.weight"),
    "other width": (edit_architecture(width=48), "", "transformer .*size mismatch"),
    "other encoder": (edit_architecture(encoder="resnet50"), "", "transformer"),
    "broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer.json",
        "",
    ),
    "other tokens": (edit_json("config.json", vocabulary_size=7), "", r"\b7\b"),
}


@pytest.mark.parametrize(("edit", "at_fault", "fact"), LOADED_FAULTS.values(), ids=LOADED_FAULTS)
def test_files_that_do_not_fit_together_are_one_clear_line(
    edit: Edit, at_fault: str, fact: str, folder: Path
) -> None:
    edit(folder)
    with pytest.raises(ModelError, match=fact or None) as caught:
        load_captioner(find_model(str(folder)), ModelConfig(precision="fp32"), GREEDY)
    assert caught.value.uri == str(folder / at_fault)
    assert "\n" not in str(caught.value)
