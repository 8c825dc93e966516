"""What the BLIP captioner makes of settings, folders and devices, on small random models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.device import pick_device, pick_dtype
from raycap.models.sources import DEMO_FOLDER
from tests.support import tiny_blip
from tests.support.tiny_blip import (
    FP32,
    SIDE_PX,
    Load,
    copy_folder,
    random_pixels,
    sampling,
    save_model,
)

# The fixtures of tests/tiny_blip.py, which pytest looks for under these names.
_one_thread = tiny_blip.one_thread
folder = tiny_blip.folder
load = tiny_blip.load
pixels = tiny_blip.pixels


def test_sampling_depends_on_seed_and_image_alone(
    load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(sampling(temperature=3.0))
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    whole = captioner.caption(pixels)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    assert [captioner.caption(image[None])[0] for image in pixels[::-1]] == whole[::-1]
    assert load(sampling(seed=1, temperature=3.0)).caption(pixels) != whole


def test_top_k_of_one_is_greedy(load: Load, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
    greedy = load(GenerationConfig(num_beams=1)).caption(pixels)
    sampled = load(sampling(top_k=1, temperature=5.0)).caption(pixels)
    assert [caption.text for caption in sampled] == [caption.text for caption in greedy]


def test_a_folders_own_generation_settings_change_nothing(
    folder: Path, load: Load, tmp_path: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    copied = copy_folder(folder, tmp_path)
    own = {"num_beams": 1, "max_length": 3, "repetition_penalty": 9.0, "suppress_tokens": [6, 7]}
    (copied / "generation_config.json").write_text(json.dumps(own))
    config = json.loads((copied / "config.json").read_text())
    config["text_config"] |= {"max_length": 4, "min_length": 2, "length_penalty": -3.0, "top_k": 2}
    (copied / "config.json").write_text(json.dumps(config))
    altered = BlipCaptioner.from_pretrained(copied, FP32, GenerationConfig())
    assert altered.caption(pixels) == load(GenerationConfig()).caption(pixels)


@pytest.mark.parametrize("generation", [GenerationConfig(), sampling()], ids=["beams", "sampling"])
def test_numbers_that_are_not_finite_name_their_image(
    generation: GenerationConfig, folder: Path, tmp_path: Path
) -> None:
    copied = copy_folder(folder, tmp_path)
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    settings["rescale_factor"] = 1e37  # white overflows fp32, black does not
    (copied / "preprocessor_config.json").write_text(json.dumps(settings))
    captioner = BlipCaptioner.from_pretrained(copied, FP32, generation)
    images = np.zeros((3, SIDE_PX, SIDE_PX, 3), np.uint8)
    assert len(captioner.caption(images)) == 3
    images[1] = 255
    with pytest.raises(FloatingPointError, match="image 1 "):
        captioner.caption(images)


def test_weights_stored_in_fp16_run_in_fp32(tmp_path: Path, pixels: Any) -> None:
    stored = save_model(tmp_path, torch.float16)
    captioner = BlipCaptioner.from_pretrained(stored, FP32, GenerationConfig())
    assert {weight.dtype for weight in captioner._model.parameters()} == {torch.float32}
    assert captioner._normalise(pixels).dtype == torch.float32
    assert all(np.isfinite(caption.logprob) for caption in captioner.caption(pixels))


def test_bf16_captions_too(folder: Path, pixels: Any) -> None:
    captioner = BlipCaptioner.from_pretrained(
        folder, ModelConfig(precision="bf16"), GenerationConfig()
    )
    assert captioner._model.dtype == torch.bfloat16
    assert all(np.isfinite(caption.logprob) for caption in captioner.caption(pixels))


def test_precision_is_chosen_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", cpu) is torch.float32
    assert pick_dtype("bf16", cpu) is torch.bfloat16
    assert pick_dtype("fp16", gpu) is torch.float16
    assert pick_dtype("fp32", gpu) is torch.float32
    if torch.accelerator.is_available():
        assert pick_device().type != "cpu"
    else:
        assert pick_device() == cpu
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert pick_dtype("auto", gpu) is torch.bfloat16
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **asked: asked["including_emulation"]
    )
    assert pick_dtype("auto", gpu) is torch.float16


def test_an_accelerator_that_does_not_tell_gets_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda _: object())
    assert pick_dtype("auto", torch.device("mps")) is torch.float16


def test_a_caption_longer_than_the_model_can_write_is_refused(load: Load) -> None:
    load(GenerationConfig(max_new_tokens=64, num_beams=1)).caption(random_pixels(1))
    with pytest.raises(ModelError, match=r"\b61 ") as caught:
        load(GenerationConfig(max_new_tokens=62, prompt="a picture of"))
    assert caught.value.setting == "generation.max_new_tokens"


@pytest.mark.parametrize(
    ("name", "content", "at_fault"),
    [
        ("model.safetensors", b"not weights", "model.safetensors"),
        ("tokenizer.json", b"{}", ""),
    ],
)
def test_broken_files_are_a_model_error(
    name: str, content: bytes, at_fault: str, folder: Path, tmp_path: Path
) -> None:
    copied = copy_folder(folder, tmp_path)
    (copied / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        BlipCaptioner.from_pretrained(copied, FP32, GenerationConfig())
    assert caught.value.uri == str(copied / at_fault)


def test_nothing_is_written_to_the_terminal(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    captioner = load(GenerationConfig(prompt="a picture of"))
    captioner.caption(random_pixels(2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not DEMO_FOLDER.is_dir(), reason="the demo model is not built")
def test_the_demo_model_captions_alike_in_any_batch() -> None:
    captioner = BlipCaptioner.from_pretrained(DEMO_FOLDER, FP32, GenerationConfig())
    target = captioner.target
    shape = (4, target.height_px, target.width_px, 3)
    images = np.full(shape, np.arange(0, 256, 64, dtype=np.uint8)[:, None, None, None])
    whole = captioner.caption(images)
    assert all(caption.text and caption.logprob < 0 for caption in whole)
    alone = [captioner.caption(image[None])[0] for image in images]
    assert [caption.text for caption in alone] == [caption.text for caption in whole]
    assert {weight.dtype for weight in captioner._model.parameters()} == {torch.float32}
