"""Training BLIP: the loss, the labels, what is trained, and what is saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch.nn import functional

from raycap.config import (
    ArchitectureConfig,
    BlipTuningConfig,
    GenerationConfig,
    ModelConfig,
    TrainConfig,
)
from raycap.errors import ModelError
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.training import BlipTrainable, load_blip_trainable
from raycap.models.trainable import IGNORED, Trainable
from tests.support.tiny_blip import DEC, PAD, SEP, folder, one_thread, pixels

__all__ = ["folder", "one_thread", "pixels"]

CAPTIONS = ["a red cat", "the small dog sits under a tree", "bird", "a big blue car"]
GREEDY = GenerationConfig(num_beams=1)


def load(folder: Path, **tuning: Any) -> BlipTrainable:
    return load_blip_trainable(folder, TrainConfig(blip=BlipTuningConfig(**tuning)))


def first(pixels: UInt8[np.ndarray, "b h w 3"], count: int = 4) -> torch.Tensor:
    return torch.tensor(pixels[:count]).permute(0, 3, 1, 2)


def loss_of(model: BlipTrainable, images: torch.Tensor) -> torch.Tensor:
    batch = model.encode(CAPTIONS)
    logits = model.network(images, batch.inputs, batch.mask)
    return functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


def test_the_loss_equals_that_of_transformers_on_the_same_batch(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    model = load(folder)
    model.network.eval()
    blip: Any = model.network.blip
    # As transformers' own examples prepare a batch: whole captions, padding ignored.
    tokens = model._saved_tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    tokens.input_ids[:, 0] = DEC
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (model._preprocessing.mean, model._preprocessing.std)
    )
    expected = blip(
        pixel_values=(first(pixels) / 255 - mean) / std,
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        labels=labels,
    ).loss
    torch.testing.assert_close(loss_of(model, first(pixels)), expected, rtol=1e-5, atol=1e-6)


def test_padding_and_prompt_carry_no_loss_and_the_end_token_does(folder: Path) -> None:
    config = TrainConfig(generation=GenerationConfig(prompt="a picture of"))
    model = load_blip_trainable(folder, config)
    batch = model.encode(["red cat", "dog"])
    assert batch.inputs.shape == batch.mask.shape == batch.targets.shape == (2, 6)
    assert batch.inputs[0, 0] == DEC
    assert batch.targets[0, :3].tolist() == [IGNORED] * 3
    assert batch.targets[0, 3:].tolist() == [*batch.inputs[0, 4:].tolist(), SEP]
    assert batch.inputs[1, 5] == PAD
    assert batch.mask[1].tolist() == [1, 1, 1, 1, 1, 0]
    assert batch.targets[1, 4:].tolist() == [SEP, IGNORED]


def test_a_caption_that_is_too_long_is_cut_and_keeps_its_end(folder: Path) -> None:
    config = TrainConfig(architecture=ArchitectureConfig(max_tokens=4))
    batch = load_blip_trainable(folder, config).encode(["a red cat sits under a tree"])
    assert batch.inputs.shape == (1, 4)
    assert batch.targets[0, -1] == SEP


@pytest.mark.parametrize("method", ["full", "frozen-vision", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_a_gradient_reaches_all_that_is_trained_and_nothing_else(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"], method: str, checkpointing: bool
) -> None:
    model = load(folder, method=method, gradient_checkpointing=checkpointing)
    model.network.train()
    torch.autograd.backward(loss_of(model, first(pixels)))
    named = dict(model.network.named_parameters())
    assert {n for n, p in named.items() if p.grad is not None} == {
        n for n, p in named.items() if p.requires_grad
    }
    trained = {n for n, p in named.items() if p.requires_grad}
    if method == "full":
        assert trained == set(named)
    elif method == "frozen-vision":
        assert trained == {n for n in named if "vision_model" not in n}
    else:
        assert trained
        assert all("lora_" in n for n in trained)


def test_gradient_checkpointing_changes_no_gradient(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = load(folder, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        model.network.train()
        torch.autograd.backward(loss_of(model, first(pixels)))
        gradients.append([p.grad for p in model.network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def fit(model: BlipTrainable, images: torch.Tensor, num_steps: int, lr: float) -> float:
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    model.network.train()
    loss = torch.tensor(torch.inf)
    for _ in range(num_steps):
        loss = loss_of(model, images)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return loss.item()


def test_four_images_are_overfitted_and_reload_to_the_same_captions(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load(folder)
    assert fit(model, first(pixels), num_steps=150, lr=2e-3) < 0.05
    for generation in (GREEDY, GenerationConfig(num_beams=3)):
        before = model.captioner(generation).caption(pixels[:4])
        assert [caption.text for caption in before] == CAPTIONS
        model.save(tmp_path, generation, {"epoch": 1})
        reloaded = BlipCaptioner.from_pretrained(
            tmp_path, ModelConfig(precision="fp32"), generation
        )
        assert [c.text for c in reloaded.caption(pixels[:4])] == CAPTIONS


def test_low_rank_updates_are_merged_when_saved(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load(folder, method="lora", lora_rank=8)
    before = loss_of(model, first(pixels)).item()
    after = fit(model, first(pixels), num_steps=20, lr=1e-2)
    assert after < 0.8 * before
    expected = model.captioner(GREEDY).caption(pixels)
    model.save(tmp_path, GREEDY, {})
    assert not any("lora" in file.name for file in tmp_path.iterdir())
    saved = BlipCaptioner.from_pretrained(tmp_path, ModelConfig(precision="fp32"), GREEDY)
    found = saved.caption(pixels)
    assert [c.text for c in found] == [c.text for c in expected]
    assert [c.logprob for c in found] == pytest.approx([c.logprob for c in expected], abs=1e-4)
    # The network itself keeps its updates separate.
    assert loss_of(model, first(pixels)).requires_grad


def test_the_trainable_is_what_the_training_engine_expects(folder: Path) -> None:
    assert isinstance(load(folder), Trainable)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(tmp_path)
