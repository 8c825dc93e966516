"""Nothing of a model's folder is unpickled, and nothing but its own safetensors is loaded."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models.blip.captioner import load_network
from raycap.models.clip_source import find_clip
from raycap.models.folders import WEIGHT_FILE, WEIGHT_INDEX_FILE, write_json
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support import tiny_blip
from tests.support.tiny_blip import one_thread
from tests.support.tiny_clip import save_clip

__all__ = ["one_thread"]

Edit = Callable[[Path, bytes], object]


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._place),)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


@pytest.fixture
def trap(sprung: Path) -> bytes:
    """A pickle that would make a folder; it does."""
    data = pickle.dumps({"weight": _Trap(sprung)})
    pickle.loads(data)  # noqa: S301  ours
    sprung.rmdir()
    return data


# Fixtures, which pytest looks for under their names.
whole = tiny_blip.whole
folder = tiny_blip.own_folder


def only(name: str) -> Edit:
    def edit(folder: Path, trap: bytes) -> None:
        (folder / WEIGHT_FILE).unlink()
        (folder / name).write_bytes(trap)

    return edit


def disguised(folder: Path, trap: bytes) -> None:
    (folder / WEIGHT_FILE).write_bytes(trap)


def zipped(folder: Path, trap: bytes) -> None:
    del trap
    torch.save({"weight": _Trap(folder.parent / "sprung")}, folder / WEIGHT_FILE)


def beside(folder: Path, trap: bytes) -> None:
    (folder / "more.safetensors").write_bytes(trap)


def indexed(name: str) -> Edit:
    def edit(folder: Path, trap: bytes) -> None:
        (folder / WEIGHT_FILE).unlink()
        (folder / name).write_bytes(trap)
        index = {"metadata": {}, "weight_map": {"weight": name}}
        write_json(folder / WEIGHT_INDEX_FILE, index)

    return edit


def adapted(folder: Path, trap: bytes) -> None:
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "/elsewhere"})
    (folder / "adapter_model.bin").write_bytes(trap)


def configured(*path: str, value: str) -> Edit:
    def edit(folder: Path, trap: bytes) -> None:
        del trap
        config = json.loads((folder / "config.json").read_text())
        section = config
        for name in path[:-1]:
            section = section[name]
        section[path[-1]] = value
        write_json(folder / "config.json", config)

    return edit


REFUSED: dict[str, tuple[Edit, str]] = {
    "bin": (only("pytorch_model.bin"), r"\(pytorch_model\.bin\)"),
    "pt": (only("model.pt"), r"\(model\.pt\)"),
    "pkl": (only("model.pkl"), r"\(model\.pkl\)"),
    "pickle as safetensors": (disguised, r"model\.safetensors: .*pickle"),
    "zip as safetensors": (zipped, r"model\.safetensors: .*pickle"),
    "pickle beside": (beside, r"more\.safetensors: .*pickle"),
    "index of a pickle": (indexed("weights.bin"), r"'weights\.bin'"),
    "index out of the folder": (indexed("../x.safetensors"), r"'\.\./x\.safetensors'"),
    "adapter": (adapted, r"\(adapter_config\.json\)"),
    "kernel": (
        configured("attn_implementation", value="someone/kernel"),
        'attn_implementation .*"someone/kernel"',
    ),
    "kernel of a part": (
        configured("text_config", "_attn_implementation", value="someone/kernel"),
        'attn_implementation .*"someone/kernel"',
    ),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_what_could_run_code_is_refused_in_one_line(
    edit: Edit, message: str, folder: Path, trap: bytes, sprung: Path
) -> None:
    before = find_model(str(folder))
    edit(folder, trap)
    with pytest.raises(ModelError, match=message) as caught:
        find_model(str(folder))
    assert "\n" not in str(caught.value)
    # Nor where it got there after it was found.
    with pytest.raises(ModelError):
        load_captioner(before, ModelConfig(), GenerationConfig())
    assert not sprung.exists()


def test_a_pickled_file_is_no_model(tmp_path: Path, trap: bytes, sprung: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(trap)
    with pytest.raises(ModelError, match="pickle") as caught:
        find_model(str(file))
    assert caught.value.uri == str(file)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("edit", [disguised, zipped])
def test_the_loader_itself_unpickles_nothing(
    edit: Edit, folder: Path, trap: bytes, sprung: Path
) -> None:
    edit(folder, trap)
    with pytest.raises(ModelError) as caught:
        load_network(folder, torch.float32)
    assert caught.value.uri == str(folder / WEIGHT_FILE)
    assert not sprung.exists()


def test_code_that_a_folder_brings_is_not_run(folder: Path, sprung: Path) -> None:
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        file = folder / name
        kinds = ("AutoConfig", "AutoModel", "AutoImageProcessor")
        mapped: dict[str, Any] = dict.fromkeys(kinds, "own.Own")
        mapped["AutoTokenizer"] = ["own.Own", "own.Own"]  # slow and fast
        write_json(file, json.loads(file.read_text()) | {"auto_map": mapped})
    load_captioner(find_model(str(folder)), ModelConfig(), GenerationConfig())
    assert not sprung.exists()


def test_a_clip_is_checked_alike(tmp_path: Path, trap: bytes, sprung: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    find_clip(str(clip))
    disguised(clip, trap)
    with pytest.raises(ModelError, match="pickle") as caught:
        find_clip(str(clip))
    assert caught.value.uri == str(clip / WEIGHT_FILE)
    assert not sprung.exists()


@pytest.mark.parametrize("num_bytes", [640, 896, 1152])
def test_a_header_whose_length_looks_like_a_pickle_is_none(folder: Path, num_bytes: int) -> None:
    file = folder / WEIGHT_FILE
    header = b"{" + b" " * (num_bytes - 2) + b"}"
    file.write_bytes(num_bytes.to_bytes(8, "little") + header)
    assert file.read_bytes()[:1] == b"\x80"
    find_model(str(folder))
