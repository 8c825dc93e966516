"""Random small BLIP text decoders, images and searches, in double precision."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import BlipTextConfig, BlipTextLMHeadModel

from raycap.config import GenerationConfig
from raycap.models.blip.decoding import BlipDecodingState
from raycap.models.decoding import decode
from raycap.models.decoding.beam_search import EarlyStopping
from raycap.models.decoding.state import Decoded

END, PAD = 2, 0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_decoder(rng: random.Random) -> Any:
    """A text decoder of random shape, of weights large enough for captions that differ."""
    num_heads = rng.choice([1, 2, 4])
    config = BlipTextConfig(
        vocab_size=rng.randint(14, 60),
        hidden_size=num_heads * rng.choice([4, 8]),
        intermediate_size=rng.choice([8, 32]),
        encoder_hidden_size=rng.choice([4, 16]),
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=num_heads,
        max_position_embeddings=32,
        bos_token_id=1,
        sep_token_id=END,
        pad_token_id=PAD,
    )
    decoder: Any = BlipTextLMHeadModel(config)
    decoder.eval().double()
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "norm" not in name.lower():
                weight.normal_(0, rng.choice([0.4, 0.8]))
        # In standard deviations of the logits: some captions end early, some not at all.
        spread = decoder.cls.predictions.decoder.weight.std() * config.hidden_size**0.5
        decoder.cls.predictions.bias[END] = rng.uniform(0.5, 3.0) * spread
    return decoder


def random_images(rng: random.Random, decoder: Any) -> Tensor:
    shape = (rng.randint(1, 6), rng.randint(1, 9), decoder.config.encoder_hidden_size)
    return torch.randn(shape, dtype=torch.float64)


def random_start(rng: random.Random, decoder: Any) -> Tensor:
    prompt = [rng.randrange(3, decoder.config.vocab_size) for _ in range(rng.choice([0, 0, 1, 4]))]
    return torch.tensor([[1, *prompt]])


def random_search(rng: random.Random, num_beams: int) -> GenerationConfig:
    longest = rng.choice([1, 8, 14])
    return GenerationConfig(
        num_beams=num_beams,
        max_new_tokens=longest,
        min_new_tokens=rng.choice([0, 0, 0, longest // 2, longest]),
        length_penalty=rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
        repetition_penalty=rng.choice([1.0, 1.0, 0.8, 1.6]),
        no_repeat_ngram_size=rng.choice([0, 0, 1, 2, 3]),
        num_captions=rng.randint(1, num_beams),
    )


def ours(
    decoder: Any,
    images: Tensor,
    start: Tensor,
    generation: GenerationConfig,
    early_stopping: EarlyStopping = False,
) -> list[list[Decoded]]:
    state = BlipDecodingState(decoder, images, start.shape[1] + generation.max_new_tokens - 1)
    rows = start.expand(len(images), -1)
    with torch.inference_mode():
        return decode(state, rows, generation, END, early_stopping)
