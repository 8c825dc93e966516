"""BLIP on the accelerator against BLIP on the CPU, with the demo model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import Answering, Batch, caption_all
from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.errors import ModelError
from raycap.models.base import BatchRange
from raycap.models.blip import captioner as blip
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.device import pick_dtype
from raycap.models.sources import DEMO_FOLDER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator"),
    pytest.mark.skipif(not DEMO_FOLDER.is_dir(), reason="the demo model is not built"),
]


def captioner(precision: str, generation: GenerationConfig | None = None) -> BlipCaptioner:
    model = ModelConfig.model_validate({"precision": precision})
    return BlipCaptioner.from_pretrained(DEMO_FOLDER, model, generation or GenerationConfig())


def squares(num_images: int) -> UInt8[np.ndarray, "b h w 3"]:
    """One coloured square each on a plain background, as the demo model knows them."""
    rng = np.random.default_rng(5)
    target = captioner("fp32").target
    images = np.full((num_images, target.height_px, target.width_px, 3), 230, np.uint8)
    for image in images:
        side = target.width_px // 4
        top, left = rng.integers(0, target.width_px - side, 2)
        image[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return images


@pytest.mark.parametrize("num_beams", [1, 3])
def test_fp32_captions_equal_those_of_the_cpu(
    num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, generation = squares(16), GenerationConfig(num_beams=num_beams)
    there = captioner("fp32", generation)
    assert there._model.device.type != "cpu"
    found = there.caption(images)
    monkeypatch.setattr(blip, "pick_device", lambda: torch.device("cpu"))
    expected = captioner("fp32", generation).caption(images)
    same = [one.text == other.text for one, other in zip(found, expected, strict=True)]
    # Other kernels round otherwise, so that a near tie may fall the other way.
    assert np.mean(same) >= 0.9
    for alike, one, other in zip(same, found, expected, strict=True):
        assert not alike or one.logprob == pytest.approx(other.logprob, abs=1e-2)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_two_batches_in_flight_caption_as_one_after_the_other(num_beams: int) -> None:
    images = squares(96)
    there = captioner("fp32", GenerationConfig(num_beams=num_beams))
    size = BatchRange.fixed(8)

    one = caption_all(Answering(there), Batch(images), BatchSize(size))
    two = caption_all(Answering(there), Batch(images), BatchSize(size), num_lanes=2)

    assert one == two


def test_8_bits_are_refused() -> None:
    with pytest.raises(ModelError) as caught:
        captioner("int8")
    assert caught.value.setting == "model.precision"


@pytest.mark.parametrize("num_beams", [1, 3, 5])
def test_captions_equal_those_of_generate_on_the_same_device(num_beams: int) -> None:
    images = squares(16)
    here = captioner("fp32", GenerationConfig(num_beams=num_beams))
    with torch.inference_mode():
        sequences = here._model.generate(
            pixel_values=here._normalise(images), num_beams=num_beams, max_new_tokens=20
        )
    expected = [here._tokenizer.decode(tokens) for tokens in sequences.tolist()]
    same = [one.text == text for one, text in zip(here.caption(images), expected, strict=True)]
    assert np.mean(same) >= 0.9, "as above: near ties aside"


def test_auto_is_a_half_precision_and_captions() -> None:
    here = captioner("auto")
    assert here._model.dtype == pick_dtype("auto", here._model.device) != torch.float32
    captions = here.caption(squares(8))
    assert all(caption.text and np.isfinite(caption.logprob) for caption in captions)


def test_sampling_on_the_accelerator_does_not_depend_on_the_batch() -> None:
    generation = GenerationConfig(
        num_beams=1, sampling=SamplingConfig(enabled=True, temperature=2.0)
    )
    here, images = captioner("fp32", generation), squares(6)
    whole = here.caption(images)
    torch.manual_seed(11)
    assert [here.caption(image[None])[0] for image in images[::-1]] == whole[::-1]


def test_an_image_that_is_not_finite_does_not_end_the_process(tmp_path: Path) -> None:
    for file in DEMO_FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    preprocessing = tmp_path / "preprocessor_config.json"
    settings = json.loads(preprocessing.read_text())
    preprocessing.write_text(json.dumps(settings | {"rescale_factor": 1e37}))
    sampling = GenerationConfig(num_beams=1, sampling=SamplingConfig(enabled=True))
    for generation in (GenerationConfig(), sampling):
        here = BlipCaptioner.from_pretrained(tmp_path, ModelConfig(precision="fp32"), generation)
        dark = np.zeros((1, here.target.height_px, here.target.width_px, 3), np.uint8)
        with pytest.raises(FloatingPointError, match="image 0"):
            here.caption(255 - dark)
        assert len(here.caption(dark)) == 1
