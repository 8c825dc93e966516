"""Captioners trained from scratch: they learn, they are saved, and captions stay the same."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig, TrainConfig
from raycap.errors import ConfigError, ModelError
from raycap.models.base import AdjustableCaptioner, Attended, AttentiveCaptioner, Captioner
from raycap.models.load import load_captioner
from raycap.models.scratch.captioner import HybridCaptioner, load_scratch_captioner
from raycap.models.scratch.model import load_model
from raycap.models.scratch.tokenizer import END, START
from raycap.models.scratch.training import ScratchTrainable, load_scratch_trainable
from raycap.models.sources import find_model
from raycap.models.trainable import IGNORED, Trainable, build_trainable, load_trainable
from tests.support.tiny_scratch import (
    BEAMS,
    CAPTIONS,
    GREEDY,
    KINDS,
    build,
    fit,
    images,
    loss_of,
    one_thread,
    tensor,
    train_config,
)

__all__ = ["one_thread"]

FP32 = ModelConfig(precision="fp32")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> ScratchTrainable:
    """A model that knows its four images by heart."""
    return learned(request.param)


@pytest.fixture(scope="module")
def hybrid() -> ScratchTrainable:
    return learned("hybrid")


@cache
def learned(kind: str) -> ScratchTrainable:
    model = build(kind, num_layers=1)
    fit(model, images())
    return model


def texts(captioner: Captioner) -> list[str]:
    return [caption.text for caption in captioner.caption(images())]


# Learning, saving, captioning


def test_four_images_are_overfitted_and_reload_to_the_same_captions(
    trained: ScratchTrainable, tmp_path: Path
) -> None:
    trained.network.eval()
    with torch.inference_mode():
        assert loss_of(trained, tensor(images()), CAPTIONS).item() < 0.03
    for generation in (GREEDY, BEAMS):
        before = trained.captioner(generation)
        assert texts(before) == CAPTIONS
        trained.save(tmp_path, generation, {"epoch": 1})
        source = find_model(str(tmp_path))
        assert (source.kind, source.generation) == (trained.kind, generation)
        after = load_captioner(source, FP32, generation)
        assert after.target == source.target == trained.target
        assert texts(after) == CAPTIONS
        assert [one.logprob for one in after.caption(images())] == pytest.approx(
            [one.logprob for one in before.caption(images())], abs=1e-4
        )
    assert json.loads((tmp_path / "raycap.json").read_text())["training"] == {"epoch": 1}


@pytest.mark.parametrize(
    "generation",
    [
        GREEDY,
        GenerationConfig(num_beams=3, num_captions=2),
        GenerationConfig(num_beams=1, num_captions=3, sampling=SamplingConfig(enabled=True)),
    ],
    ids=["greedy", "beams", "sampling"],
)
def test_a_caption_does_not_depend_on_the_batch_around_it(
    trained: ScratchTrainable, generation: GenerationConfig
) -> None:
    captioner, many = trained.captioner(generation), images(9)  # five of them never seen
    whole = captioner.caption(many)
    torch.manual_seed(11)
    apart = [captioner.caption(image[None])[0] for image in many[::-1]][::-1]
    assert captioner.caption(many[:0]) == []
    for one, other in zip(whole, apart, strict=True):
        found = [(caption.text, caption.logprob) for caption in (one, *one.alternatives)]
        expected = [(caption.text, caption.logprob) for caption in (other, *other.alternatives)]
        assert len(found) == generation.num_captions
        for (text, logprob), (expected_text, expected_logprob) in zip(found, expected, strict=True):
            assert text == expected_text
            assert logprob == pytest.approx(expected_logprob, abs=1e-4)


def test_a_caption_continues_the_prompt(trained: ScratchTrainable) -> None:
    prompted = trained.captioner(GREEDY.model_copy(update={"prompt": "a red CAT"}))
    assert prompted.caption(images())[0].text == CAPTIONS[0]
    assert all(text.startswith("a red cat") for text in texts(prompted))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_caption_alike(
    trained: ScratchTrainable, tmp_path: Path, precision: str
) -> None:
    trained.save(tmp_path, BEAMS, {})
    model = ModelConfig.model_validate({"precision": precision})
    half = load_scratch_captioner(tmp_path, model, BEAMS)
    assert texts(half) == CAPTIONS


def has_half_precision_lstm() -> bool:
    """Whether torch itself can run an LSTM under autocast here."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(4, 4)(torch.zeros(1, 1, 4))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_captioning_work_under_autocast(kind: str) -> None:
    if kind == "cnn-lstm" and not has_half_precision_lstm():
        pytest.skip("torch has no LSTM in bfloat16 on this CPU")
    model = build(kind, dropout=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        model.network.train()
        torch.autograd.backward(loss_of(model, tensor(images()), CAPTIONS))
        assert len(texts(model.captioner(BEAMS))) == 4
    for value in model.network.parameters():
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()


def test_pixels_that_give_no_number_are_named(trained: ScratchTrainable, tmp_path: Path) -> None:
    trained.save(tmp_path, GREEDY, {})
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"rescale_factor": 1e37}))
    broken = load_scratch_captioner(tmp_path, FP32, GREEDY)
    pixels = images(2) // 255 * 0
    pixels[1] = 255
    with pytest.raises(FloatingPointError, match="image 1 "):
        broken.caption(pixels)


# What training is given


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_engines_expect(kind: str) -> None:
    model = build(kind)
    assert isinstance(model, Trainable)
    assert model.kind == kind
    captioner = model.captioner(GREEDY)
    assert isinstance(captioner, AdjustableCaptioner)
    assert isinstance(captioner, AttentiveCaptioner) == (kind == "hybrid")


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_all_that_is_trained(kind: str) -> None:
    model = build(kind)
    model.network.train()
    torch.autograd.backward(loss_of(model, tensor(images()), CAPTIONS))
    for name, value in model.network.named_parameters():
        assert value.requires_grad, name
        assert value.grad is not None, name


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_loss(kind: str) -> None:
    model = build(kind)
    model.network.eval()
    pixels = tensor(images())
    with torch.inference_mode():
        whole = loss_of(model, pixels, CAPTIONS)
        sums, counts = [], []
        for image, caption in zip(pixels, CAPTIONS, strict=True):
            counts.append(int((model.encode([caption]).targets != IGNORED).sum()))
            sums.append(loss_of(model, image[None], [caption]) * counts[-1])
    torch.testing.assert_close(whole, torch.stack(sums).sum() / sum(counts))


def test_the_prompt_carries_no_loss_and_the_end_token_does() -> None:
    batch = build("cnn-lstm", prompt="a red cat").encode(["sits", "sits on the mat"])
    assert batch.inputs[:, 0].tolist() == [START, START]
    assert batch.targets[0, :3].tolist() == [IGNORED] * 3
    assert batch.targets[0, 3:].tolist() == [batch.inputs[0, 4].item(), END, *[IGNORED] * 3]
    assert batch.mask.sum(1).tolist() == [5, 8]
    assert batch.targets[1, -1] == END


def test_a_caption_that_is_too_long_is_cut_and_keeps_its_end() -> None:
    batch = build("hybrid", max_tokens=4).encode([CAPTIONS[1]])
    assert batch.inputs.shape == (1, 4)
    assert batch.targets[0, -1] == END


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_weights(kind: str) -> None:
    config = train_config(kind)
    first, same = (build_trainable(config, CAPTIONS) for _ in range(2))
    reseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": 1})})
    other = build_trainable(reseeded, CAPTIONS)
    weights, alike, unlike = (
        torch.cat([value.flatten() for value in model.network.parameters()])
        for model in (first, same, other)
    )
    assert torch.equal(weights, alike)
    assert not torch.equal(weights, unlike)


def test_no_captions_are_one_clear_line() -> None:
    with pytest.raises(ModelError, match="caption"):
        build_trainable(train_config("cnn-lstm"), ["", "  "])


# Going on from a folder


def test_init_keeps_weights_and_tokens_and_takes_what_changes_none(
    trained: ScratchTrainable, tmp_path: Path
) -> None:
    trained.save(tmp_path, GREEDY, {})
    config = TrainConfig.model_validate(
        {
            "kind": trained.kind,
            "init": str(tmp_path),
            "architecture": {"width": 64, "dropout": 0.5, "max_tokens": 5},
        }
    )
    going_on = build_trainable(config, ["other words, that are not learned from"])
    assert texts(going_on.captioner(GREEDY)) == CAPTIONS
    assert going_on.encode(CAPTIONS).inputs.shape == (4, 5)
    drops = [m.p for m in going_on.network.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops
    assert set(drops) == {0.5}
    going_on.save(tmp_path / "next", GREEDY, {})
    found = load_model(tmp_path / "next").description.architecture
    assert (found.width, found.dropout, found.max_tokens) == (96, 0.5, 5)


def test_init_of_another_kind_is_refused(tmp_path: Path) -> None:
    build("hybrid").save(tmp_path, GREEDY, {})
    init = str(tmp_path)
    for config in (TrainConfig(kind="cnn-lstm", init=init), TrainConfig(init=init)):
        with pytest.raises(ConfigError, match=f"'hybrid'.*'{config.kind}'") as refused:
            build_trainable(config, CAPTIONS)
        assert refused.value.setting == "init"
    with pytest.raises(ModelError, match=r"'hybrid'.*'cnn-lstm'") as caught:
        load_scratch_trainable(tmp_path, TrainConfig(kind="cnn-lstm"))
    assert caught.value.uri == str(tmp_path)
    with pytest.raises(ModelError, match=r"'hybrid'.*'blip'") as caught:
        load_trainable(tmp_path, TrainConfig())
    assert caught.value.uri == str(tmp_path)


# Where `hybrid` looks


@torch.inference_mode()
def by_token(captioner: HybridCaptioner, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Attended]:
    tokenizer = captioner._model.tokenizer
    return [
        Attended(texts=[tokenizer.decode([token]) for token in tokens], weights=weights)
        for tokens, weights in captioner._attend(pixels)
    ]


def test_attention_sums_to_one_for_every_token_and_word(hybrid: ScratchTrainable) -> None:
    captioner = hybrid.captioner(BEAMS)
    assert isinstance(captioner, HybridCaptioner)
    side = -(-captioner.target.width_px // 16)
    captions = texts(captioner)
    for told in (by_token(captioner, images()), captioner.attend_words(images())):
        assert len(told) == 4
        for one in told:
            assert one.weights.shape == (len(one.texts), side, side)
            np.testing.assert_allclose(one.weights.sum((1, 2)), 1, rtol=1e-5)
            assert (one.weights >= 0).all()
    words = [one.texts for one in captioner.attend_words(images())]
    assert words == [caption.split() for caption in captions]
    assert [hybrid.captioner(GREEDY).count_tokens([caption])[0] for caption in captions] == [
        len(one.texts) for one in by_token(captioner, images())
    ]


def test_attention_is_that_of_the_prompted_caption_without_its_prompt(
    hybrid: ScratchTrainable,
) -> None:
    plain = hybrid.captioner(GREEDY)
    prompted = hybrid.captioner(GREEDY.model_copy(update={"prompt": "a red cat"}))
    assert isinstance(plain, HybridCaptioner)
    assert isinstance(prompted, HybridCaptioner)
    (whole,), (rest,) = by_token(plain, images()[:1]), by_token(prompted, images()[:1])
    assert whole.texts[3:] == rest.texts
    np.testing.assert_allclose(whole.weights[3:], rest.weights, atol=1e-5)


def test_attention_does_not_depend_on_the_batch(hybrid: ScratchTrainable) -> None:
    captioner = hybrid.captioner(BEAMS)
    assert isinstance(captioner, HybridCaptioner)
    assert by_token(captioner, images()[:0]) == []
    for index, one in enumerate(by_token(captioner, images())):
        (alone,) = by_token(captioner, images()[index : index + 1])
        assert alone.texts == one.texts
        np.testing.assert_allclose(alone.weights, one.weights, atol=1e-5)


def test_a_caption_cut_off_in_the_making_is_told_of_to_its_last_token(
    hybrid: ScratchTrainable,
) -> None:
    short = hybrid.captioner(GREEDY.model_copy(update={"max_new_tokens": 3}))
    assert isinstance(short, HybridCaptioner)
    assert [len(one.texts) for one in by_token(short, images())] == [3, 3, 1, 3]
