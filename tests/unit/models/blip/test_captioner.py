"""The BLIP captioner against transformers' own `generate`, on small random models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from transformers import BlipForConditionalGeneration, BlipProcessor

from raycap.config import GenerationConfig
from raycap.models.base import Question
from tests.support import tiny_blip
from tests.support.tiny_blip import DEC, SEP, SIDE_PX, Load, sampling

# The fixtures of tests/tiny_blip.py, which pytest looks for under these names.
_one_thread = tiny_blip.one_thread
folder = tiny_blip.folder
load = tiny_blip.load
pixels = tiny_blip.pixels


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    load: Any = BlipForConditionalGeneration.from_pretrained
    return load(folder).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    load: Any = BlipProcessor.from_pretrained
    return load(folder)


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


def test_pixels_are_normalised_as_the_image_processor_does(
    load: Load, processor: Any, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    expected = processor(images=list(pixels), return_tensors="pt").pixel_values
    found = load(GenerationConfig())._normalise(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("generation", [GenerationConfig(), GenerationConfig(num_beams=1)])
def test_questions_of_any_length_are_answered_as_each_alone(
    generation: GenerationConfig, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(generation)
    texts = ["a", "a picture of a dog and a", "this is", ""]
    questions = [[Question(text=texts[n % 4]), Question(text=texts[-n % 4])] for n in range(6)]
    images = pixels[np.arange(6) % len(pixels)]
    found = captioner.answer(images, questions)
    for place, asked in enumerate(questions):
        ((first, second),) = captioner.answer(images[place : place + 1], [asked])
        for one, alone in zip(found[place], (first, second), strict=True):
            assert one.text == alone.text
            assert one.logprob == pytest.approx(alone.logprob, abs=1e-5)


def test_a_question_that_is_too_long_is_told(
    load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(GenerationConfig(num_beams=1))
    with pytest.raises(ValueError, match="tokens at most"):
        captioner.answer(pixels[:1], [[Question(text="a dog " * 200)]])


def test_a_question_may_ask_for_as_many_tokens_as_there_is_room_for(
    load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(GenerationConfig(num_beams=1))
    prompt = "a dog " * 3
    (num_prompt,) = captioner.count_tokens([prompt])
    room = captioner._model.config.text_config.max_position_embeddings - num_prompt
    asked = [
        Question(text=prompt, max_new_tokens=most, is_shortened=True) for most in (10_000, room)
    ]
    longest, fits = (captioner.answer(pixels[:1], [[question]]) for question in asked)
    assert longest == fits
