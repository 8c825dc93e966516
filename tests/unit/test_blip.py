"""The BLIP captioner against transformers' own `generate`, on small random models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.errors import ModelError
from raycap.models.blip import BlipCaptioner
from raycap.models.device import pick_device, pick_dtype
from raycap.models.sources import DEMO_FOLDER

SIDE_PX = 32
WORDS = "a the red blue big small dog cat bird car tree on in under sits runs sleeps and picture of"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
VOCABULARY = [*SPECIALS, *WORDS.split(), *(f"w{number}" for number in range(14))]
PAD, SEP, DEC = 0, 3, 5
FP32 = ModelConfig(precision="fp32")

Load = Callable[[GenerationConfig], BlipCaptioner]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """So small a model is slower on two threads, and far slower where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    load: Any = BlipForConditionalGeneration.from_pretrained
    return load(folder).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    load: Any = BlipProcessor.from_pretrained
    return load(folder)


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


def save_model(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random BLIP whose weights are large enough for captions that differ by image."""
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
            "image_size": SIDE_PX,
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
    size = {"height": SIDE_PX, "width": SIDE_PX}
    BlipImageProcessor(size=size).save_pretrained(folder)
    return folder


def reference_captions(
    reference: Any,
    processor: Any,
    pixels: UInt8[np.ndarray, "b h w 3"],
    prompt: str,
    **settings: Any,
) -> list[str]:
    """What the library's own processor and `generate` make of the images."""
    text = {"text": [prompt] * len(pixels)} if prompt else {}
    inputs = processor(images=list(pixels), return_tensors="pt", **text)
    sequences = reference.generate(**inputs, **settings)
    return [processor.decode(tokens, skip_special_tokens=True).strip() for tokens in sequences]


def teacher_forced(
    reference: Any, processor: Any, image: UInt8[np.ndarray, "h w 3"], text: str, prompt: str
) -> tuple[float, float]:
    """Mean log-probability of a caption by one plain forward pass: with and without an end."""
    words = processor.tokenizer(text, add_special_tokens=False).input_ids
    num_prompt = len(processor.tokenizer(prompt, add_special_tokens=False).input_ids)
    tokens = torch.tensor([[DEC, *words, SEP]])
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        logits = reference(input_ids=tokens, **inputs).logits
    steps = logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[num_prompt:, 0]
    return steps.mean().item(), steps[:-1].mean().item()


SEARCHES = {
    "greedy": GenerationConfig(num_beams=1),
    "beams": GenerationConfig(),
    "five beams": GenerationConfig(num_beams=5, max_new_tokens=12),
    "long": GenerationConfig(length_penalty=2.5, max_new_tokens=12),
    "short": GenerationConfig(length_penalty=-1.0, num_beams=4, min_new_tokens=3),
    "at least": GenerationConfig(min_new_tokens=9, max_new_tokens=12),
    "repetition": GenerationConfig(repetition_penalty=1.7),
    "greedy repetition": GenerationConfig(num_beams=1, repetition_penalty=1.7, min_new_tokens=5),
    "ngrams": GenerationConfig(no_repeat_ngram_size=2, min_new_tokens=8),
    "prompt": GenerationConfig(prompt="a picture of", min_new_tokens=3),
    "greedy prompt": GenerationConfig(prompt="a picture of", num_beams=1, max_new_tokens=6),
}


@pytest.mark.parametrize("generation", SEARCHES.values(), ids=SEARCHES)
def test_captions_and_logprobs_equal_the_reference(
    generation: GenerationConfig,
    load: Load,
    reference: Any,
    processor: Any,
    pixels: UInt8[np.ndarray, "b h w 3"],
) -> None:
    captions = load(generation).caption(pixels)
    given = generation.model_dump(exclude={"prompt", "num_captions", "sampling"})
    if generation.num_beams == 1:
        del given["length_penalty"]
    expected = reference_captions(reference, processor, pixels, generation.prompt, **given)
    assert [caption.text for caption in captions] == expected
    assert len(set(expected)) > 2, "the model must tell images apart for this test to mean much"
    for image, caption in zip(pixels, captions, strict=True):
        forced = teacher_forced(reference, processor, image, caption.text, generation.prompt)
        assert min(abs(caption.logprob - value) for value in forced) < 1e-4


def test_the_logprob_counts_the_end_token_where_there_is_one(
    load: Load, reference: Any, processor: Any, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    for image, caption in zip(pixels, load(GenerationConfig()).caption(pixels), strict=True):
        ended = len(caption.text.split()) < GenerationConfig().max_new_tokens
        forced = teacher_forced(reference, processor, image, caption.text, "")
        assert caption.logprob == pytest.approx(forced[0] if ended else forced[1], abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_caption_does_not_depend_on_its_batch(
    num_beams: int, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(GenerationConfig(num_beams=num_beams))
    whole = captioner.caption(pixels)
    for batch_size in (1, 3):
        parts = [pixels[at : at + batch_size] for at in range(0, len(pixels), batch_size)]
        again = [caption for part in parts for caption in captioner.caption(part)]
        assert [caption.text for caption in again] == [caption.text for caption in whole]
        np.testing.assert_allclose(
            [caption.logprob for caption in again],
            [caption.logprob for caption in whole],
            atol=1e-5,
        )
    order = np.random.default_rng(2).permutation(len(pixels))
    shuffled = captioner.caption(pixels[order])
    assert [caption.text for caption in shuffled] == [whole[index].text for index in order]


def test_an_empty_batch_has_no_captions(load: Load) -> None:
    assert load(GenerationConfig()).caption(np.empty((0, SIDE_PX, SIDE_PX, 3), np.uint8)) == []


def test_several_captions_come_best_first_and_differ(
    load: Load, reference: Any, processor: Any, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    generation = GenerationConfig(num_beams=4, num_captions=3)
    captions = load(generation).caption(pixels)
    expected = reference_captions(
        reference, processor, pixels, "", num_beams=4, num_return_sequences=3, max_new_tokens=20
    )
    texts = [
        text for one in captions for text in (one.text, *(alt.text for alt in one.alternatives))
    ]
    assert texts == expected
    for image, caption in zip(pixels, captions, strict=True):
        for found in (caption, *caption.alternatives):
            assert found.alternatives == () or found is caption
            forced = teacher_forced(reference, processor, image, found.text, "")
            assert min(abs(found.logprob - value) for value in forced) < 1e-4


def sampling(seed: int = 0, num_captions: int = 1, **settings: Any) -> GenerationConfig:
    return GenerationConfig(
        num_beams=1,
        num_captions=num_captions,
        sampling=SamplingConfig(enabled=True, seed=seed, **settings),
    )


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


def test_sampled_captions_come_best_first_with_true_logprobs(
    load: Load, reference: Any, processor: Any, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captions = load(sampling(num_captions=4, temperature=2.0, top_k=9, top_p=0.9)).caption(pixels)
    assert len({one.text for caption in captions for one in caption.alternatives}) > len(pixels)
    for image, caption in zip(pixels, captions, strict=True):
        found = (caption, *caption.alternatives)
        assert [one.logprob for one in found] == sorted(
            (one.logprob for one in found), reverse=True
        )
        for one in found:
            forced = teacher_forced(reference, processor, image, one.text, "")
            assert min(abs(one.logprob - value) for value in forced) < 1e-4


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
def test_a_saved_captioner_reloads_to_the_same_captions(
    generation: GenerationConfig, load: Load, tmp_path: Path, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(generation)
    captioner.save(tmp_path / "saved")
    again = BlipCaptioner.from_pretrained(tmp_path / "saved", FP32, generation)
    assert again.caption(pixels) == captioner.caption(pixels)
    assert again.target == captioner.target
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names >= {"model.safetensors", "generation_config.json", "preprocessor_config.json"}
    assert json.loads((tmp_path / "saved" / "raycap.json").read_text()) == {"kind": "blip"}


def test_pixels_are_normalised_as_the_image_processor_does(
    load: Load, processor: Any, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    expected = processor(images=list(pixels), return_tensors="pt").pixel_values
    found = load(GenerationConfig())._normalise(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


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
    # A sampled image is a batch of its own.
    where = "image 0 of" if generation.sampling.enabled else "image 1 of"
    with pytest.raises(FloatingPointError, match=where):
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
    with pytest.raises(ModelError, match=r"max_new_tokens: with the prompt's 3 tokens at most 61"):
        load(GenerationConfig(max_new_tokens=62, prompt="a picture of"))


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copied = copy_folder(folder, tmp_path)
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the weights lack \d+ tensors"):
        BlipCaptioner.from_pretrained(copied, FP32, GenerationConfig())


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"not weights"), ("tokenizer.json", b"{}")],
)
def test_broken_files_are_a_model_error(
    name: str, content: bytes, folder: Path, tmp_path: Path
) -> None:
    copied = copy_folder(folder, tmp_path)
    (copied / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded as BLIP"):
        BlipCaptioner.from_pretrained(copied, FP32, GenerationConfig())


def test_nothing_is_written_to_the_terminal(
    load: Load, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    captioner = load(GenerationConfig(prompt="a picture of"))
    captioner.caption(random_pixels(2))
    captioner.save(tmp_path)
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


def copy_folder(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to
