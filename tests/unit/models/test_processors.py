"""Changes of scores against the logits processors of transformers."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from raycap.config import GenerationConfig, SamplingConfig
from raycap.models.decoding.processors import (
    ban_end,
    ban_repeated_ngrams,
    build_process,
    divide,
    keep_best,
    keep_nucleus,
    penalise_repetition,
    replace_infinite,
)

T: Any = transformers  # partly untyped there
END, NUM_WORDS, NUM_START = 2, 11, 2

PAIRS: dict[str, tuple[Callable[..., Tensor], Any]] = {
    **{
        f"repetition {penalty}": (
            partial(penalise_repetition, penalty=penalty),
            T.RepetitionPenaltyLogitsProcessor(penalty),
        )
        for penalty in (0.7, 1.3)
    },
    **{
        f"{size}-grams": (
            partial(ban_repeated_ngrams, size=size),
            T.NoRepeatNGramLogitsProcessor(size),
        )
        for size in (1, 2, 3)
    },
    "end": (
        partial(ban_end, until=NUM_START + 4, end_token=END),
        T.MinNewTokensLengthLogitsProcessor(NUM_START, 4, END),
    ),
    "infinite": (replace_infinite, T.InfNanRemoveLogitsProcessor()),
    "temperature": (partial(divide, temperature=0.3), T.TemperatureLogitsWarper(0.3)),
    **{
        f"top {count}": (partial(keep_best, num_kept=count), T.TopKLogitsWarper(count))
        for count in (1, 4)
    },
    **{
        f"nucleus {share}": (
            partial(keep_nucleus, probability=share),
            T.TopPLogitsWarper(share),
        )
        for share in (0.05, 0.5, 0.95)
    },
}


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens that repeat, and scores with ties and infinite ones."""
    draw = torch.Generator().manual_seed(0)
    for num_tokens in range(1, 9):
        tokens = torch.randint(3, 6, (7, num_tokens), generator=draw)
        scores = torch.randn(7, NUM_WORDS, generator=draw) * 3
        scores[0] = scores[0].round()
        scores[1, :4] = -math.inf
        yield tokens, scores


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_scores_are_those_of_transformers_to_the_bit(
    ours: Callable[..., Tensor], theirs: Any
) -> None:
    changed = 0
    for tokens, scores in batches():
        expected = theirs(tokens, scores.clone())
        before = scores.clone()
        found = ours(tokens, scores)
        assert torch.equal(found, expected)
        assert torch.equal(scores, before)
        changed += not torch.equal(found, scores)
    assert changed


def test_more_than_all_tokens_may_be_kept() -> None:
    tokens, scores = next(batches())
    assert torch.equal(keep_best(tokens, scores, 99), T.TopKLogitsWarper(99)(tokens, scores))


def test_numbers_that_are_not_finite_become_so() -> None:
    scores = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]])
    expected = T.InfNanRemoveLogitsProcessor()(torch.zeros(1, 1, dtype=torch.long), scores)
    assert torch.equal(replace_infinite(torch.zeros(1, 1, dtype=torch.long), scores), expected)


def test_all_of_a_search_are_applied_in_the_order_of_generate() -> None:
    sampling = SamplingConfig(enabled=True, temperature=0.6, top_k=6, top_p=0.8)
    generation = GenerationConfig(
        num_beams=1,
        min_new_tokens=4,
        repetition_penalty=1.4,
        no_repeat_ngram_size=2,
        sampling=sampling,
    )
    ours = build_process(generation, NUM_START, END)
    theirs = T.LogitsProcessorList(
        [
            T.RepetitionPenaltyLogitsProcessor(1.4),
            T.NoRepeatNGramLogitsProcessor(2),
            T.MinNewTokensLengthLogitsProcessor(NUM_START, 4, END),
            T.InfNanRemoveLogitsProcessor(),
            T.TemperatureLogitsWarper(0.6),
            T.TopKLogitsWarper(6),
            T.TopPLogitsWarper(0.8),
        ]
    )
    for tokens, scores in batches():
        assert torch.equal(ours(tokens, scores), theirs(tokens, scores.clone()))


def test_without_settings_scores_stay_as_they_are() -> None:
    tokens, scores = next(batches())
    assert build_process(GenerationConfig(), NUM_START, END)(tokens, scores) is scores
