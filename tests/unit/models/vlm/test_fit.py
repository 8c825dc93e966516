"""Images that keep their aspect ratio, against transformers' processors on the original images."""

import json
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from raycap.config import FittedImageConfig, GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import decode
from raycap.images.grids import PatchGrid
from raycap.models.base import Captioner, ModelSource
from raycap.models.fitting import DEFAULT_MAX_PIXELS, fit_images
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.models.vlm.kind import vlm_grid
from tests.support import tiny_blip
from tests.support.tiny_vlm import ENDS, save_vlm

_one_thread = tiny_blip.one_thread

FAMILIES = [
    "idefics3",
    "qwen2_vl",
    "qwen2_5_vl",
    pytest.param(
        "smolvlm",
        marks=pytest.mark.skipif(find_spec("num2words") is None, reason="needs raycap[vlm]"),
    ),
]
SIZES = {
    "idefics3": {"longest_edge": 112},
    "smolvlm": {"longest_edge": 112},
    "qwen2_vl": {"shortest_edge": 28 * 28, "longest_edge": 140 * 140},
    "qwen2_5_vl": {"shortest_edge": 28 * 28, "longest_edge": 140 * 140},
}
BUDGET = 90 * 90
"""Less than the processors' own bounds: three tiles a side, or ten tokens."""
SHAPES = [(160, 120), (120, 160), (161, 117), (300, 60), (50, 40), (160, 120), (190, 200)]
PROMPT = "Describe this picture"
LEVELS = 255.0


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Blobs of colour, smooth as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


PICTURES = [picture(*shape, seed) for seed, shape in enumerate(SHAPES)]


def png(image: Image.Image) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose processor accepts larger images than those of other tests."""
    made = save_vlm(family, tmp_path_factory.mktemp(family))
    file = made / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = SIZES[family]
    file.write_text(json.dumps(settings))
    return made


def fitted(folder: Path, **image: Any) -> ModelSource:
    return fit_images(find_model(str(folder)), FittedImageConfig(**image))


def captioner_of(source: ModelSource, **generation: Any) -> Captioner:
    asked = {"num_beams": 1, "max_new_tokens": 8, "prompt": PROMPT} | generation
    return load_captioner(source, ModelConfig(precision="fp32"), GenerationConfig(**asked))


def pixels_of(source: ModelSource) -> list[UInt8[np.ndarray, "h w 3"]]:
    images = FittedImageConfig()
    return [decode(png(image), source.target, images).pixels for image in PICTURES]


class Reference:
    """The model as transformers' pages show it, on an original image within a budget."""

    def __init__(self, folder: Path, family: str, max_pixels: int | None) -> None:
        load_model: Any = AutoModelForImageTextToText.from_pretrained
        load_processor: Any = AutoProcessor.from_pretrained
        self.model = load_model(folder).eval()
        self.processor = load_processor(folder)
        self.size = dict(SIZES[family])
        if max_pixels is not None:
            tiled = 28 * (int(max_pixels**0.5) // 28)
            self.size["longest_edge"] = max_pixels if "qwen" in family else tiled

    def inputs(self, image: Image.Image) -> Any:
        content = [{"type": "image", "image": image}, {"type": "text", "text": PROMPT}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"images_kwargs": {"size": self.size}},
        )

    def caption(self, image: Image.Image) -> str:
        inputs = self.inputs(image)
        (sequence,) = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        found = sequence[inputs["input_ids"].shape[1] :].tolist()
        ended = [at for at, token in enumerate(found) if token in ENDS]
        kept = found[: ended[0] + 1] if ended else found
        return str(self.processor.tokenizer.decode(kept, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("max_pixels", [None, BUDGET])
def test_the_models_input_is_the_processors_own_of_the_original_image(
    max_pixels: int | None, family: str, folder: Path
) -> None:
    source = fitted(folder, fit="keep", max_pixels_model=max_pixels)
    captioner: Any = captioner_of(source)
    reference = Reference(folder, family, max_pixels)
    spread = np.array(captioner._processor.image_processor.image_std).mean()
    for image, pixels in zip(PICTURES, pixels_of(source), strict=True):
        ours, theirs = captioner._inputs(pixels[None], [PROMPT]), reference.inputs(image)
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"pixel_values"}:
            assert torch.equal(ours[name], theirs[name]), name
        difference = (ours["pixel_values"] - theirs["pixel_values"]).abs() * spread * LEVELS
        assert difference.mean() < 0.5
        assert difference.max() < 4
    counts = {
        captioner._inputs(one[None], [PROMPT])["input_ids"].shape for one in pixels_of(source)
    }
    assert len(counts) > 1, "images must differ in their number of tokens"


def test_captions_are_those_of_transformers_on_the_original_images(
    family: str, folder: Path
) -> None:
    source = fitted(folder, fit="keep")
    captioner, reference = captioner_of(source), Reference(folder, family, None)
    texts = []
    for image, pixels in zip(PICTURES, pixels_of(source), strict=True):
        (caption,) = captioner.caption(pixels[None])
        texts.append(reference.caption(image))
        assert caption.text == texts[-1]
    assert len(set(texts)) > 2


# Which sizes there are, and what is refused


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that accepts only squares of 28 pixels."""
    return save_vlm("llava", tmp_path_factory.mktemp("llava"))


def grid_of(folder: Path, settings: dict[str, Any], max_pixels: int) -> Any:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(settings))
    return vlm_grid(folder, max_pixels)


def test_sizes_by_the_settings_of_known_processors(tmp_path: Path) -> None:
    qwen = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    assert grid_of(tmp_path, qwen, 2**20) == PatchGrid(
        multiple_px=28, min_pixels=3136, max_pixels=1_003_520
    )
    newer = qwen | {"patch_size": 16, "size": {"shortest_edge": 65_536, "longest_edge": 2**24}}
    assert grid_of(tmp_path, newer, 2**20).multiple_px == 32
    assert grid_of(tmp_path, newer, 2**20).max_pixels == 2**20
    older = qwen | {"min_pixels": 3136, "max_pixels": 12_845_056}
    assert grid_of(tmp_path, older, 2**22).max_pixels == 2**22
    smol = {"image_processor_type": "SmolVLMImageProcessor"} | {
        "size": {"longest_edge": 2048},
        "max_image_size": {"longest_edge": 512},
    }
    sides = [grid_of(tmp_path, smol, budget).longest_px for budget in (1, 2**20, 2**24)]
    assert sides == [512, 1024, 2048]
    assert grid_of(tmp_path, smol | {"do_image_splitting": False}, 2**20) is None
    other = {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 1024}}
    assert grid_of(tmp_path, other, 5000) == PatchGrid(max_pixels=5000)
    tiles = {"size": {"height": 448, "width": 448}, "max_patches": 12}
    assert grid_of(tmp_path, tiles, 5000) == PatchGrid(max_pixels=5000)
    assert grid_of(tmp_path, {"size": {"height": 768, "width": 768}}, 5000) is None


@pytest.mark.parametrize("wrong", [{"patch_size": "14"}, {"size": {"shortest_edge": 0}}])
def test_settings_that_are_no_sizes_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        grid_of(tmp_path, {"image_processor_type": "Qwen2VLImageProcessor"} | wrong, 2**20)
    assert caught.value.uri == str(tmp_path / "preprocessor_config.json")


@pytest.mark.parametrize(
    ("image", "setting"),
    [
        ({"fit": "keep"}, "image.fit"),
        ({"fit": "square", "max_pixels_model": 9}, "image.max_pixels_model"),
        ({"max_pixels_model": 9}, "image.max_pixels_model"),
    ],
)
def test_a_model_of_one_size_keeps_it(image: dict[str, Any], setting: str, fixed: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fitted(fixed, **image)
    assert caught.value.setting == setting


def test_a_budget_below_the_smallest_size_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fitted(folder, fit="keep", max_pixels_model=27 * 27)
    assert caught.value.setting == "image.max_pixels_model"


def test_the_defaults_leave_a_model_as_it_was(folder: Path) -> None:
    source = find_model(str(folder))
    assert fitted(folder) is not None
    assert fitted(folder).identity() == source.identity()
    kept = fitted(folder, fit="keep")
    assert kept.identity() != source.identity()
    asked = fitted(folder, fit="keep", max_pixels_model=DEFAULT_MAX_PIXELS)
    assert asked.identity() == kept.identity(), "the default may be written out"


def test_a_square_is_the_image_on_the_models_mean_colour(fixed: Path, folder: Path) -> None:
    source = fitted(fixed, fit="square")
    assert source.target.padding == (123, 117, 104)  # of CLIP
    assert (source.target.width_px, source.target.varies) == (28, False)
    large = fitted(folder, fit="square", max_pixels_model=90 * 90)
    assert large.target.width_px == large.target.height_px == 84
    assert not large.target.varies
    captioner: Any = captioner_of(source, prompt="User : <image> Describe Assistant :")
    wide = decode(png(picture(56, 28, 1)), source.target, FittedImageConfig()).pixels
    read = captioner._inputs(wide[None], ["User : <image>"])["pixel_values"][0]
    assert read[:, :7].abs().max() < 0.02, "the margin is zero to the model"
    assert read[:, 21:].abs().max() < 0.02
    plain = Image.fromarray(wide[7:21])
    expected = picture(56, 28, 1).resize((28, 14), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(plain), np.asarray(expected))
