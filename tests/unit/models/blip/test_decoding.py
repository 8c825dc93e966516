"""BLIP's fast decoding against transformers' modules and `generate`, over random small models.

In double precision, so that no near tie can fall the other way.
"""

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    BlipForConditionalGeneration,
    BlipVisionConfig,
    BlipVisionModel,
)

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.demo.scenes import render, scene
from raycap.demo.train import resize
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.decoding import BlipDecodingState, encode_images
from raycap.models.decoding.beam_search import EarlyStopping
from raycap.models.decoding.state import Decoded
from raycap.models.generation import search_settings
from raycap.models.sources import DEMO_FOLDER
from tests.support import tiny_blip
from tests.support.random_blip import (
    END,
    PAD,
    ours,
    random_decoder,
    random_images,
    random_search,
    random_start,
    seeded,
)

_one_thread = tiny_blip.one_thread

Settings: Any = transformers.GenerationConfig  # untyped there

NUM_RANDOM = 10


def theirs(
    decoder: Any,
    images: Tensor,
    start: Tensor,
    generation: GenerationConfig,
    early_stopping: EarlyStopping = False,
) -> Any:
    """What transformers makes of it, one row a caption."""
    tokens = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": PAD}
    settings = Settings(**tokens, **search_settings(generation))
    settings.update(return_dict_in_generate=True, output_scores=True, output_logits=True)
    if generation.num_beams > 1:
        settings.update(early_stopping=early_stopping)
    rows = start.expand(len(images), -1)
    return decoder.generate(
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        encoder_hidden_states=images,
        encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long),
        generation_config=settings,
    )


def check_tokens(found: list[list[Decoded]], output: Any, num_start: int) -> None:
    flat = [one for captions in found for one in captions]
    assert len(flat) == len(output.sequences)
    for one, row in zip(flat, output.sequences[:, num_start:].tolist(), strict=True):
        ended = row.index(END) + 1 if END in row else len(row)
        assert one.tokens == row[:ended]
        assert set(row[ended:]) <= {PAD, END}


def check_logprobs(found: list[list[Decoded]], decoder: Any, images: Tensor, start: Tensor) -> None:
    """By one plain pass over every caption."""
    for image, captions in zip(images, found, strict=True):
        for one in captions:
            read = torch.tensor([[*start[0].tolist(), *one.tokens[:-1]]])
            with torch.no_grad():
                logits = decoder(
                    input_ids=read,
                    attention_mask=torch.ones_like(read),
                    encoder_hidden_states=image[None],
                ).logits
            steps = logits[0, start.shape[1] - 1 :].log_softmax(-1)
            chosen = steps.gather(1, torch.tensor(one.tokens)[:, None])
            assert one.logprob == pytest.approx(chosen.mean().item(), abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_captions_and_scores_are_those_of_generate(
    num_beams: int, early_stopping: EarlyStopping
) -> None:
    lengths = set()
    for seed in range(NUM_RANDOM):
        rng = random.Random(f"{seed} {num_beams} {early_stopping}")
        with seeded(seed):
            decoder = random_decoder(rng)
            job = (random_images(rng, decoder), random_start(rng, decoder))
        generation = random_search(rng, num_beams)
        found = ours(decoder, *job, generation, early_stopping)
        output = theirs(decoder, *job, generation, early_stopping)
        check_tokens(found, output, job[1].shape[1])
        check_logprobs(found, decoder, *job)
        if num_beams > 1:
            scores = [one.score for captions in found for one in captions]
            assert scores == pytest.approx(output.sequences_scores.tolist(), abs=1e-4)
        lengths |= {len(one.tokens) for captions in found for one in captions}
    assert len(lengths) > 2, "captions must end at different lengths for this test to mean much"


def test_draws_are_those_of_generate_from_the_same_seed() -> None:
    different = set()
    for seed in range(NUM_RANDOM):
        rng = random.Random(seed)
        with seeded(seed):
            decoder = random_decoder(rng)
            images, start = random_images(rng, decoder)[:1], random_start(rng, decoder)
        sampling = SamplingConfig(
            enabled=True,
            temperature=rng.choice([1.0, 0.7, 3.0]),
            top_k=rng.choice([None, 4]),
            top_p=rng.choice([1.0, 0.8]),
        )
        generation = random_search(rng, 1).model_copy(
            update={"sampling": sampling, "num_captions": rng.randint(1, 5)}
        )
        with seeded(seed):
            found = ours(decoder, images, start, generation)
        with seeded(seed):
            output = theirs(decoder, images, start, generation)
        check_tokens(found, output, start.shape[1])
        check_logprobs(found, decoder, images, start)
        different |= {tuple(one.tokens) for one in found[0]}
    assert len(different) > NUM_RANDOM


@pytest.mark.parametrize("seed", range(6))
def test_the_images_encoding_is_that_of_transformers(seed: int) -> None:
    rng = random.Random(seed)
    num_heads = rng.choice([1, 3])
    config = BlipVisionConfig(
        hidden_size=num_heads * 8,
        intermediate_size=20,
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=num_heads,
        image_size=24,
        patch_size=rng.choice([4, 8]),
        initializer_range=0.5,
    )
    with seeded(seed):
        vision: Any = BlipVisionModel(config)
        vision.eval().double()
        pixels = torch.randn(3, 3, 24, 24, dtype=torch.float64)
    with torch.inference_mode():
        expected = vision(pixels).last_hidden_state
        torch.testing.assert_close(encode_images(vision, pixels), expected)


def test_patches_are_kept_once_an_image_however_many_beams() -> None:
    with seeded(0):
        decoder = random_decoder(random.Random(0))
        images = torch.randn(4, 9, decoder.config.encoder_hidden_size, dtype=torch.float64)
    state = BlipDecodingState(decoder, images, 5)
    with torch.inference_mode():
        state.feed(torch.ones(4, 1, dtype=torch.long))
        state.widen(5)
        narrow = BlipDecodingState(decoder, images, 5)
        narrow.feed(torch.ones(4, 1, dtype=torch.long))
        tokens = torch.full((4, 1), 3)
        wide = state.feed(tokens.repeat_interleave(5, 0))
        torch.testing.assert_close(wide, narrow.feed(tokens).repeat_interleave(5, 0))
    assert all(layer.memory.image_keys.shape[0] == 4 for layer in state._layers)


@pytest.mark.parametrize("num_beams", [1, 3, 5])
def test_the_demo_model_captions_as_generate_does(num_beams: int) -> None:
    pixels = np.stack([resize(render(scene(77, index))) for index in range(12)])
    captioner = BlipCaptioner.from_pretrained(
        DEMO_FOLDER, ModelConfig(precision="fp32"), GenerationConfig(num_beams=num_beams)
    )
    load: Any = BlipForConditionalGeneration.from_pretrained
    reference = load(DEMO_FOLDER, dtype=torch.float32).eval()
    # The model's own settings decide nothing: all that matters is said.
    sequences = reference.generate(
        pixel_values=captioner._normalise(pixels),
        num_beams=num_beams,
        max_new_tokens=20,
        do_sample=False,
    )
    expected = [captioner._tokenizer.decode(tokens) for tokens in sequences.tolist()]
    found = [caption.text for caption in captioner.caption(pixels)]
    assert found == expected
    assert len(set(found)) > 6


@pytest.mark.parametrize("num_beams", [1, 3])
def test_under_autocast_captions_are_finite_and_close(num_beams: int) -> None:
    with seeded(5):
        decoder = random_decoder(random.Random(1)).float()
        images = torch.randn(3, 9, decoder.config.encoder_hidden_size)
    start, generation = torch.tensor([[1]]), GenerationConfig(num_beams=num_beams, max_new_tokens=1)
    exact = ours(decoder, images, start, generation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = ours(decoder, images, start, generation)
    for one, other in zip(exact, rounded, strict=True):
        assert one[0].logprob == pytest.approx(other[0].logprob, abs=0.5)
