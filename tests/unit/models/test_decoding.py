"""Search and draws against their definitions, on a toy model that can be searched exhaustively."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from raycap.config import GenerationConfig, SamplingConfig
from raycap.models.base import Caption
from raycap.models.decoding import caption_with, decode
from raycap.models.decoding.beam_search import EarlyStopping
from raycap.models.decoding.state import Decoded, DecodingState
from tests.support.toy_decoding import END, ToyState

START = (7, 8)
CPU = torch.device("cpu")


def run(
    state: ToyState, generation: GenerationConfig, early_stopping: EarlyStopping = False
) -> list[list[Decoded]]:
    start = torch.tensor([START] * len(state.images))
    return decode(state, start, generation, END, early_stopping)


def test_the_toy_is_a_decoding_state() -> None:
    assert isinstance(ToyState(4, range(1)), DecodingState)


@pytest.mark.parametrize("early_stopping", [False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_with_a_beam_for_every_caption_the_search_is_exhaustive(
    length_penalty: float, min_new_tokens: int, early_stopping: EarlyStopping
) -> None:
    state = ToyState(4, range(3))
    everything = state.all_captions(3)
    assert len(everything) == 40
    # The end token does not count.
    captions = [one for one in everything if len(one) - one.count(END) >= min_new_tokens]
    generation = GenerationConfig(
        num_beams=40,
        num_captions=8,
        max_new_tokens=3,
        min_new_tokens=min_new_tokens,
        length_penalty=length_penalty,
    )
    for image, found in enumerate(run(state, generation, early_stopping)):
        totals = {tokens: sum(state.step_logprobs(image, START, tokens)) for tokens in captions}
        scores = {tokens: total / len(tokens) ** length_penalty for tokens, total in totals.items()}
        best = sorted(captions, key=lambda tokens: -scores[tokens])[:8]
        assert [tuple(one.tokens) for one in found] == best
        for one, tokens in zip(found, best, strict=True):
            assert one.score == pytest.approx(scores[tokens], abs=1e-5)
            assert one.logprob == pytest.approx(totals[tokens] / len(tokens), abs=1e-5)


def test_greedy_takes_the_likeliest_token_every_time() -> None:
    state = ToyState(6, range(20))
    found = run(state, GenerationConfig(num_beams=1, max_new_tokens=9))
    for image, (one,) in enumerate(found):
        expected: list[int] = []
        while len(expected) < 9 and END not in expected:
            expected.append(int(state.logits(image, (*START, *expected)).argmax()))
        assert one.tokens == expected
        steps = state.step_logprobs(image, START, tuple(expected))
        assert one.logprob == one.score == pytest.approx(np.mean(steps), abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_image_that_is_done_leaves_the_batch(num_beams: int) -> None:
    state = ToyState(6, range(20))
    run(state, GenerationConfig(num_beams=num_beams, max_new_tokens=30))
    first, *later = state.num_fed
    assert first == 20, "the start is read once an image, not once a beam"
    assert later[0] <= 20 * num_beams
    assert later == sorted(later, reverse=True)
    assert later[-1] < later[0]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_is_found_does_not_depend_on_the_batch(
    num_beams: int, early_stopping: EarlyStopping
) -> None:
    generation = GenerationConfig(num_beams=num_beams, max_new_tokens=12)
    together = run(ToyState(6, range(9)), generation, early_stopping)
    for image, found in enumerate(together):
        assert run(ToyState(6, range(image, image + 1)), generation, early_stopping) == [found]


def test_draws_follow_the_probabilities() -> None:
    logits = (0.0, 1.0, 2.0, 0.5, -1.0)
    generation = GenerationConfig(
        num_beams=1,
        num_captions=64,
        max_new_tokens=1,
        sampling=SamplingConfig(enabled=True, temperature=1.6),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = run(ToyState(5, range(100), logits), generation)
    drawn = Counter(one.tokens[0] for captions in found for one in captions)
    assert drawn.total() == 6400
    expected = ((torch.tensor(logits) / 1.6).softmax(0) * 6400).tolist()
    squares = [(drawn[token] - share) ** 2 / share for token, share in enumerate(expected)]
    assert sum(squares) < 18.5, "four degrees of freedom, one in a thousand"


def test_draws_stay_among_the_likeliest() -> None:
    sampling = SamplingConfig(enabled=True, top_k=3, top_p=0.8)
    generation = GenerationConfig(num_beams=1, num_captions=64, max_new_tokens=1, sampling=sampling)
    (found,) = run(ToyState(5, range(1), (0.0, 1.0, 2.0, 1.9, -1.0)), generation)
    # Of the three likeliest, the first two have more than four fifths.
    assert {one.tokens[0] for one in found} == {2, 3}


def captions(decoded: dict[int, list[float]], generation: GenerationConfig) -> list[Caption]:
    """Turn captions of these logprobs, by the first pixel of their image, into the answer."""

    def decode_batch(images: slice) -> list[list[Decoded]]:
        return [
            [Decoded(tokens=[at], logprob=value, score=value) for at, value in enumerate(values)]
            for values in (decoded[int(image[0, 0, 0])] for image in pixels[images])
        ]

    pixels = np.zeros((len(decoded), 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = sorted(decoded)
    return caption_with(
        decode_batch, lambda _, tokens: str(tokens), pixels, generation, CPU, (END,)
    )


def test_a_search_says_which_is_best_and_draws_are_sorted() -> None:
    decoded = {0: [-3.0, -1.0, -2.0]}
    searched = captions(decoded, GenerationConfig(num_captions=3))[0]
    assert searched.text == "[0]"
    assert [one.text for one in searched.alternatives] == ["[1]", "[2]"]
    sampling = SamplingConfig(enabled=True)
    drawn = captions(decoded, GenerationConfig(num_beams=1, num_captions=3, sampling=sampling))[0]
    assert (drawn.text, drawn.logprob) == ("[1]", -1.0)
    assert [one.text for one in drawn.alternatives] == ["[2]", "[0]"]


@pytest.mark.parametrize("enabled", [False, True], ids=["search", "draws"])
def test_images_whose_numbers_are_not_finite_are_named(enabled: bool) -> None:
    generation = GenerationConfig(num_beams=1, sampling=SamplingConfig(enabled=enabled))
    decoded = {0: [-1.0], 1: [math.nan], 2: [-1.0], 3: [-math.inf]}
    with pytest.raises(FloatingPointError, match="image 1, 3 "):
        captions(decoded, generation)
