"""A small random BLIP, in a folder, loaded and with images; one thread to run it in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
)

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.models.blip.captioner import BlipCaptioner

SIDE_PX = 32
WORDS = "a the red blue big small dog cat bird car tree on in under sits runs sleeps and picture of"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
VOCABULARY = [*SPECIALS, *WORDS.split(), *(f"w{number}" for number in range(14))]
PAD, SEP, DEC = 0, 3, 5
FP32 = ModelConfig(precision="fp32")
Load = Callable[[GenerationConfig], BlipCaptioner]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """So small a model is slower on two threads, and far slower where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the test run's checks of annotations, which torch cannot compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to copy, for tests that change it."""
    return save_model(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def own_folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    copied = tmp_path / "model"
    copied.mkdir()
    return copy_folder(whole, copied)


@pytest.fixture(scope="module")
def pixels() -> UInt8[np.ndarray, "8 h w 3"]:
    return random_pixels(8)


@pytest.fixture
def load(folder: Path) -> Load:
    return lambda generation: BlipCaptioner.from_pretrained(folder, FP32, generation)


def random_pixels(num_images: int) -> UInt8[np.ndarray, "b h w 3"]:
    """Blocks of colour: noise alone would look the same to a random vision model."""
    blocks = np.random.default_rng(1).integers(0, 256, (num_images, 4, 4, 3), dtype=np.uint8)
    return blocks.repeat(SIDE_PX // 4, axis=1).repeat(SIDE_PX // 4, axis=2)


def save_model(folder: Path, dtype: torch.dtype = torch.float32, side_px: int = SIDE_PX) -> Path:
    """Save a random BLIP whose weights are large enough for captions that differ by image."""
    folder.mkdir(exist_ok=True)
    (folder / "words.txt").write_text("\n".join(VOCABULARY))
    tokenizer: Any = BertTokenizer(str(folder / "words.txt"), bos_token="[DEC]")
    (folder / "words.txt").unlink()
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {"vocab_size": len(VOCABULARY), "num_attention_heads": 4, "initializer_range": 0.5}
    tokens = {"bos_token_id": DEC, "sep_token_id": SEP, "eos_token_id": SEP, "pad_token_id": PAD}
    config = BlipConfig(
        text_config={**sides, **text, **tokens, "max_position_embeddings": 64},
        vision_config={
            **sides,
            "num_attention_heads": 4,
            "image_size": side_px,
            "patch_size": 16,
            "initializer_range": 0.5,
        },
    )
    torch.manual_seed(3)
    model: Any = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower() and weight.ndim > 1:
                weight.normal_(0, 0.45)
        # Special tokens would vanish from the text, by which the tests find the tokens again.
        model.text_decoder.cls.predictions.bias[: len(SPECIALS)] = -30.0
        model.text_decoder.cls.predictions.bias[SEP] = 1.0
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": side_px, "width": side_px}
    BlipImageProcessor(size=size).save_pretrained(folder)
    return folder


def copy_folder(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def sampling(seed: int = 0, num_captions: int = 1, **settings: Any) -> GenerationConfig:
    return GenerationConfig(
        num_beams=1,
        num_captions=num_captions,
        sampling=SamplingConfig(enabled=True, seed=seed, **settings),
    )
