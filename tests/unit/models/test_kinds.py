"""The registry of kinds of captioner."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from raycap.config import ArchitectureConfig, ModelConfig
from raycap.config.train import ModelKind
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import BatchRange, TrainableKind
from raycap.models.folders import PREPROCESSOR_FILE, WEIGHT_FILE, Preprocessing, write_json
from raycap.models.kinds import KINDS, find_kind, find_trainable_kind, kind_of_folder
from raycap.models.scratch.decoders import Decoder
from raycap.models.scratch.kind import SCRATCH_KINDS, ScratchDescription, write_description
from raycap.models.vlm.kind import _image_text_models


def complete_folder(model_type: str, folder: Path) -> Path:
    """Write a folder that passes every check and holds no weights."""
    folder.mkdir()
    preprocessing = Preprocessing(target=Target(width_px=48, height_px=48))
    if model_type in SCRATCH_KINDS:
        found = ScratchDescription(
            kind=model_type,
            architecture=ArchitectureConfig(image_px=48),
            num_tokens=9,
            preprocessing=preprocessing,
        )
        write_description(folder, found)
    else:
        vision = {"image_size": 48}
        write_json(folder / "config.json", {"model_type": model_type, "vision_config": vision})
    write_json(folder / PREPROCESSOR_FILE, preprocessing.to_json())
    (folder / "tokenizer.json").write_text("{}")
    (folder / WEIGHT_FILE).write_bytes(b"")
    return folder


def test_names_are_unique_and_trainable_kinds_are_those_of_the_settings() -> None:
    names = [kind.name for kind in KINDS]
    assert len({*names}) == len(names)
    trainable = {kind.name for kind in KINDS if isinstance(kind, TrainableKind)}
    assert trainable == {*get_args(ModelKind)}


@pytest.mark.parametrize("model_type", ["blip", *SCRATCH_KINDS, "llava"])
def test_a_folder_is_recognised_and_checked(model_type: str, tmp_path: Path) -> None:
    folder = complete_folder(model_type, tmp_path / "model")
    kind = kind_of_folder(folder)
    assert kind.name == {"llava": "vlm"}.get(model_type, model_type)
    assert (kind.check(folder).width_px, kind.check(folder).height_px) == (48, 48)


def test_finding_and_checking_models_imports_no_torch(tmp_path: Path) -> None:
    types = ["blip", *SCRATCH_KINDS, "llava"]
    names = [str(complete_folder(name, tmp_path / name)) for name in types] + ["stub"]
    program = (
        "import sys, raycap.models.load, raycap.models.sources; "
        f"[raycap.models.sources.find_model(name) for name in {names}]; "
        "print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_vision_language_models_are_those_of_transformers() -> None:
    from transformers.models.auto import modeling_auto  # noqa: PLC0415  slow

    assert _image_text_models() == {*modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}


def test_every_decoder_can_be_imported() -> None:
    assert all(issubclass(kind.decoder(), Decoder) for kind in SCRATCH_KINDS.values())


def test_an_unknown_kind_and_one_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ModelError, match="gru"):
        find_kind("gru")
    with pytest.raises(ModelError, match="vlm"):
        find_trainable_kind("vlm")


def test_vllm_decides_the_batches_itself() -> None:
    model = ModelConfig(backend="vllm")
    assert find_kind("vlm").batch_range(model, on_accelerator=True) == BatchRange.fixed(32)
