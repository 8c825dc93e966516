"""Small captioners to be trained from scratch, and four images with a caption each."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch.nn import functional

from raycap.config import ArchitectureConfig, GenerationConfig, TrainConfig
from raycap.images.decoding import Target
from raycap.models.folders import Preprocessing
from raycap.models.scratch.kind import SCRATCH_KINDS, ScratchDescription
from raycap.models.scratch.training import ScratchTrainable, build_scratch_trainable

KINDS = list(SCRATCH_KINDS)
SIDE_PX = 48
CAPTIONS = [
    "a red cat sits on the mat.",
    "the small dog, which is brown, sits under a tree",
    "birds",
    "a big blue car is parked on the street",
]
GREEDY = GenerationConfig(num_beams=1, max_new_tokens=30)
BEAMS = GenerationConfig(num_beams=3, max_new_tokens=30)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """So small a model is slower on two threads, and far slower where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def architecture(**settings: Any) -> ArchitectureConfig:
    small: dict[str, Any] = {
        "encoder": "small-cnn",
        "image_px": SIDE_PX,
        "width": 96,
        "num_layers": 2,
        "num_heads": 4,
        "dropout": 0.0,  # which is there to keep a model from learning by heart
        "vocabulary_size": 200,
    }
    return ArchitectureConfig.model_validate(small | settings)


def describe(kind: str, num_tokens: int, **settings: Any) -> ScratchDescription:
    found = architecture(**settings)
    target = Target(width_px=found.image_px, height_px=found.image_px)
    return ScratchDescription(
        kind=kind,
        architecture=found,
        num_tokens=num_tokens,
        preprocessing=Preprocessing(target=target),
    )


def train_config(kind: str, prompt: str = "", **settings: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"kind": kind, "architecture": architecture(**settings), "generation": {"prompt": prompt}}
    )


def build(kind: str, prompt: str = "", **settings: Any) -> ScratchTrainable:
    return build_scratch_trainable(train_config(kind, prompt, **settings), CAPTIONS * 3)


def images(num_images: int = 4, side_px: int = SIDE_PX) -> UInt8[np.ndarray, "b h w 3"]:
    """Blocks of colour."""
    blocks = np.random.default_rng(1).integers(0, 256, (num_images, 4, 4, 3), dtype=np.uint8)
    return blocks.repeat(side_px // 4, axis=1).repeat(side_px // 4, axis=2)


def tensor(pixels: UInt8[np.ndarray, "b h w 3"]) -> torch.Tensor:
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()


def loss_of(model: ScratchTrainable, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
    batch = model.encode(captions)
    logits = model.network(pixels, batch.inputs, batch.mask)
    return functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


def fit(
    model: ScratchTrainable, pixels: UInt8[np.ndarray, "b h w 3"], until_loss: float = 0.02
) -> int:
    """Train on the captions until a loss is reached; return the number of steps."""
    seen = tensor(pixels)
    parameters = [value for value in model.network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=6e-3, weight_decay=0.0)
    model.network.train()
    loss = torch.tensor(torch.inf)
    for step in range(600):
        loss = loss_of(model, seen, CAPTIONS)
        if loss.item() < until_loss:
            return step
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    raise AssertionError(f"the loss is still {loss.item()}")
