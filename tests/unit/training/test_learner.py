"""A training step equals the reference in loss and weights, for any micro-batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from raycap.config import BlipTuningConfig, TrainConfig
from raycap.models.blip.training import load_blip_trainable
from raycap.models.trainable import IGNORED, Trainable
from raycap.training.data.feed import Batch
from raycap.training.data.pieces import Kind
from raycap.training.learner import Learner, NonFinite, count_tokens
from raycap.training.preparing import fit_memory
from tests.support.tiny_blip import DEC, folder, one_thread, pixels
from tests.support.tiny_trainable import SIDE_PX
from tests.support.training_stream import one_worker, tiny_config, tiny_model

__all__ = ["folder", "one_thread", "pixels"]

CAPTIONS = ["a red cat", "the small dog sits under a tree", "bird", "a big blue car"] * 2
LR = 1e-3


def blip_learner(folder: Path, **sections: Any) -> Learner:
    config = TrainConfig.model_validate({"optimizer": {"label_smoothing": 0.0}, **sections})
    return Learner(load_blip_trainable(folder, config), config, one_worker())


def batch_of(model: Trainable, images: UInt8[np.ndarray, "b h w 3"], captions: list[str]) -> Batch:
    count = len(captions)
    return Batch(
        kind=Kind.TRAIN,
        epoch=0,
        number=0,
        is_last=False,
        pixels=torch.tensor(images[:count]).permute(0, 3, 1, 2).contiguous(),
        image_ids=[str(number) for number in range(count)],
        owners=torch.arange(count),
        offsets=torch.arange(count),
        tokens=model.encode(captions),
        references=[],
        unreadable=[],
    )


def copy_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner.trained.items()}


def assert_alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Softmax ignores the keys' biases, so Adam amplifies rounding errors of their gradients."""
    for name in a:
        if name.endswith("key.bias"):
            continue
        pair = [values[name] for values in (a, b)]
        if name.endswith("qkv.bias"):
            pair = [torch.cat([value.chunk(3)[0], value.chunk(3)[2]]) for value in pair]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=LR / 10)


def transformers_loss(learner: Learner, batch: Batch) -> torch.Tensor:
    """The mean loss of transformers' own model, over whole captions with their end token."""
    blip: Any = learner.trainable.network.blip
    tokens = learner.trainable._saved_tokenizer(CAPTIONS, padding=True, return_tensors="pt")  # type: ignore[attr-defined]
    tokens.input_ids[:, 0] = DEC
    network: Any = learner.network
    pixels = (batch.pixels.float() * network._rescale - network._mean) / network._std
    loss: torch.Tensor = blip(
        pixel_values=pixels,
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        labels=tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED),
    ).loss
    return loss


def test_a_step_equals_a_plain_loop_with_transformers_own_loss(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    ours, theirs = blip_learner(folder), blip_learner(folder)
    batch = batch_of(ours.trainable, pixels, CAPTIONS)
    decayed = [value for value in theirs.trained.values() if value.ndim > 1]
    others = [value for value in theirs.trained.values() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=LR
    )
    theirs.network.train()
    for _ in range(3):
        loss = transformers_loss(theirs, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(theirs.network.parameters(), 1.0)
        optimizer.step()
        num_tokens = count_tokens(batch.tokens)
        shown = ours.learn(batch, num_tokens, LR, max_captions=8)
        assert shown / num_tokens == pytest.approx(loss.item(), rel=1e-5)
    assert_alike(copy_of(ours), copy_of(theirs))


@pytest.mark.parametrize("max_captions", [1, 3, 4])
def test_micro_batches_together_are_the_whole_batch(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"], max_captions: int
) -> None:
    found = []
    for size in (8, max_captions):
        learner = blip_learner(folder, optimizer={"label_smoothing": 0.1})
        batch = batch_of(learner.trainable, pixels, CAPTIONS)
        num_tokens = count_tokens(batch.tokens)
        shown = [learner.learn(batch, num_tokens, LR, size) for _ in range(2)]
        found.append((shown, copy_of(learner)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_alike(found[0][1], found[1][1])


def test_label_smoothing_changes_training_but_not_the_reported_loss(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    shown, weights = [], []
    for smoothing in (0.0, 0.3):
        learner = blip_learner(folder, optimizer={"label_smoothing": smoothing})
        batch = batch_of(learner.trainable, pixels, CAPTIONS)
        shown.append(learner.learn(batch, count_tokens(batch.tokens), LR, 8))
        weights.append(copy_of(learner))
    assert shown[0] == shown[1]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_measuring_changes_nothing_and_equals_the_loss_without_dropout(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    learner = blip_learner(folder)
    batch = batch_of(learner.trainable, pixels, CAPTIONS)
    before = copy_of(learner)
    loss, num_tokens = learner.measure(batch, max_captions=3)
    assert num_tokens == sum(len(text.split()) + 1 for text in CAPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in learner.trained.items())
    assert all(value.grad is None for value in learner.trained.values())
    assert loss / num_tokens == pytest.approx(transformers_loss(learner, batch).item(), rel=1e-5)


def test_gradients_are_clipped_to_the_maximum_norm(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    moved = []
    for clip_norm in (1e-9, None):
        learner = blip_learner(folder, optimizer={"clip_norm": clip_norm, "weight_decay": 0.0})
        batch = batch_of(learner.trainable, pixels, CAPTIONS)
        before = copy_of(learner)
        learner.learn(batch, count_tokens(batch.tokens), LR, 8)
        moved.append(max(float((v - before[n]).abs().max()) for n, v in copy_of(learner).items()))
    # Adam's epsilon takes over where gradients are tiny.
    assert moved[0] < 0.5 * moved[1]


@pytest.mark.parametrize("method", ["frozen-vision", "lora"])
def test_only_trainable_parameters_change(
    folder: Path, pixels: UInt8[np.ndarray, "b h w 3"], method: Any
) -> None:
    learner = blip_learner(folder, blip=BlipTuningConfig(method=method).model_dump())
    batch = batch_of(learner.trainable, pixels, CAPTIONS)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    learner.learn(batch, count_tokens(batch.tokens), LR, 8)
    moved = {n for n, v in learner.network.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    if method == "lora":
        assert all("lora_" in name for name in moved)
    else:
        assert not any("vision_model" in name for name in moved)


def tiny_learner(**sections: Any) -> Learner:
    return Learner(tiny_model(), tiny_config(**sections), one_worker())


def grey_images(count: int) -> UInt8[np.ndarray, "b h w 3"]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (count, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def test_a_gradient_that_is_not_finite_leaves_weights_and_buffers_unchanged() -> None:
    learner = tiny_learner()
    images = grey_images(4)
    images[2] = 255  # the tiny model divides by 255 less the mean
    batch = batch_of(learner.trainable, images, ["the top is red"] * 4)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    with pytest.raises(NonFinite):
        learner.learn(batch, 20, LR, 4)
    learner.restore_buffers()
    after = learner.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not learner.optimizer.state


def test_a_trial_step_leaves_only_gradients_and_parameters_without_one_are_frozen() -> None:
    learner = tiny_learner()
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    assert fit_memory(learner, one_worker(), 8) == 8
    after = learner.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    learner.connect()
    without = {name for name, value in learner.trained.items() if not value.requires_grad}
    assert without == {"unused"}
    assert all(value.grad is None for value in learner.trained.values())


@pytest.mark.parametrize(("asked", "most", "found"), [(8, 8, 8), (8, 7, 4), (9, 4, 3), (5, 1, 1)])
def test_micro_batches_are_halved_until_they_fit(asked: int, most: int, found: int) -> None:
    learner = tiny_learner()
    learner.trainable.network.most_images = most  # type: ignore[assignment]
    assert fit_memory(learner, one_worker(), asked) == found


def test_another_error_of_the_trial_step_is_not_taken_for_too_little_memory() -> None:
    learner = tiny_learner()
    learner.trainable.network.say = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit_memory(learner, one_worker(), 8)


def test_dropout_depends_on_the_position_in_the_run_only() -> None:
    shown = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 1)):
        learner = tiny_learner(train={"seed": seed})
        learner.trainable.network.drop = torch.nn.Dropout(0.5)
        batch = batch_of(learner.trainable, grey_images(4), ["the top is red"] * 4)
        torch.manual_seed(global_seed)
        shown.append(learner.learn(batch, 20, LR, 2))
    assert shown[0] == shown[1]
    assert shown[0] != shown[2]
