"""The model shipped in the package: small, safe to load, and right."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoTokenizer, BertTokenizer, BlipForConditionalGeneration, BlipProcessor

import raycap.demo
from raycap.demo.scenes import (
    ATTRIBUTES,
    Scene,
    attributes_right,
    is_exactly_right,
    long_captions,
    render,
    scene,
    short_captions,
)
from raycap.demo.train import (
    TrainingSettings,
    build_model,
    build_tokenizer,
    caption,
    encode,
    measure,
    normalise,
    resize,
)

MODEL = Path(raycap.demo.__file__).parent / "model"
UNSEEN_SEED = 987_654  # neither trained on nor checked on while training


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_fixed_draws() -> Iterator[None]:
    """More threads only wait for each other on a model this small."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def model() -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor() -> BlipProcessor:
    return BlipProcessor.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(UNSEEN_SEED, index) for index in range(200)]


@pytest.fixture(scope="module")
def images(scenes: list[Scene]) -> list[Image.Image]:
    return [render(each) for each in scenes]


@pytest.fixture(scope="module")
def captions(
    model: BlipForConditionalGeneration, processor: BlipProcessor, images: list[Image.Image]
) -> list[str]:
    inputs = processor(images=images, return_tensors="pt")
    tokens = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=24)
    return list(processor.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def test_attributes_named_on_unseen_scenes_are_right_nine_times_in_ten(
    captions: list[str], scenes: list[Scene]
) -> None:
    accuracy = measure(captions, scenes)
    assert accuracy.attributes >= 0.9
    assert all(share >= 0.9 for share in accuracy.by_attribute.values()), accuracy


def test_most_captions_of_unseen_scenes_are_exactly_right(
    captions: list[str], scenes: list[Scene]
) -> None:
    assert measure(captions, scenes).exactly_right >= 0.8


def test_captions_have_seven_or_eight_words(captions: list[str]) -> None:
    assert {len(text.split()) for text in captions} <= {7, 8}


def test_sampled_captions_show_that_every_attribute_is_known(
    model: BlipForConditionalGeneration, images: list[Image.Image], scenes: list[Scene]
) -> None:
    pixels = np.stack([resize(image) for image in images])
    tokenizer = BertTokenizer.from_pretrained(MODEL)
    sampled = caption(model, tokenizer, pixels, do_sample=True)
    accuracy = measure(sampled, scenes)
    assert set(accuracy.by_attribute) == set(ATTRIBUTES)
    assert accuracy.attributes >= 0.85


def test_our_preprocessing_agrees_with_the_processor(
    processor: BlipProcessor, images: list[Image.Image]
) -> None:
    ours = normalise(resize(images[0])[None])
    theirs = processor(images=images[0], return_tensors="pt")["pixel_values"]
    # torchvision rounds the resized pixels differently, by one level of 255 or so
    assert (ours - theirs).abs().max() < 4 / 255 / 0.26


def test_the_folder_is_under_four_megabytes_and_holds_no_pickle() -> None:
    files = sorted(path for path in MODEL.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_the_weights_are_half_precision_and_about_a_million() -> None:
    with safe_open(MODEL / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert 0.9e6 < sum(tensor.numel() for tensor in tensors) < 1.3e6


def test_the_summary_says_how_it_was_trained() -> None:
    summary = json.loads((MODEL / "raycap.json").read_text(encoding="utf-8"))
    assert summary["kind"] == "blip"
    assert summary["training"]["unseen_scenes"]["greedy"]["attributes"] >= 0.9


def test_the_tokenizer_knows_every_word_of_every_caption(scenes: list[Scene]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for each in scenes:
        for text in (*short_captions(each), *long_captions(each)):
            tokens = tokenizer.tokenize(text)
            assert tokens == text.split()
    assert tokenizer.unk_token not in tokenizer.tokenize("Two dogs, running on wet sand.")


def test_special_tokens_of_tokenizer_and_model_agree(model: BlipForConditionalGeneration) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = model.text_decoder.config
    assert tokenizer.bos_token == "[DEC]"
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.sep_token_id == config.eos_token_id == tokenizer.sep_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.vocab_size == len(tokenizer)


def test_labels_start_like_generate_and_leave_out_padding() -> None:
    tokenizer = build_tokenizer()
    batch = encode(tokenizer, ["a red star", "a small red star"])
    assert set(batch["input_ids"][:, 0].tolist()) == {tokenizer.bos_token_id}
    assert (batch["labels"] == -100).tolist() == (batch["attention_mask"] == 0).tolist()
    assert batch["labels"][0, -2:].tolist() == [tokenizer.sep_token_id, -100]


def test_an_untrained_model_learns_one_caption_by_heart() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    shown = scene(1, 1)
    pixels = resize(render(shown))[None]
    wanted = short_captions(shown)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        loss = model(pixel_values=normalise(pixels), **encode(tokenizer, [wanted])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert caption(model, tokenizer, pixels) == [wanted]
    assert is_exactly_right(wanted, shown)


def test_measure_counts_named_right_and_exact() -> None:
    shown = scene(1, 1)
    true = short_captions(shown)[1]
    accuracy = measure([true, "people in a street"], [shown, shown])
    assert (accuracy.attributes, accuracy.exactly_right) == (1.0, 0.5)
    assert sum(accuracy.num_named.values()) == attributes_right(true, shown)[1]


def test_default_settings_are_those_of_the_shipped_model() -> None:
    summary = json.loads((MODEL / "raycap.json").read_text(encoding="utf-8"))["training"]
    defaults = TrainingSettings()
    assert summary["num_steps"] == defaults.num_steps
    assert summary["seed"] == defaults.seed
    assert summary["num_scenes"] == defaults.num_scenes
