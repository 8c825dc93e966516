"""Changes of the scores of the next token: penalties, lengths, temperature, nucleus.

The scores are those of transformers' logits processors of the same settings, to the bit, and in the
order of its `generate`.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from raycap.config import GenerationConfig

Process = Callable[[Int[Tensor, "n t"], Float[Tensor, "n v"]], Float[Tensor, "n v"]]
"""Takes the tokens of every row, start included, and the scores of the next one."""

# N = rows, T = start and generated tokens, V = vocabulary


def build_process(generation: GenerationConfig, num_start: int, end_token: int) -> Process:
    """Return all changes that settings ask for, as one.

    Args:
        generation: How captions are generated.
        num_start: Number of tokens that every caption starts with.
        end_token: The token that ends a caption.
    """
    chosen: list[Process] = []
    if generation.repetition_penalty != 1.0:
        chosen.append(partial(penalise_repetition, penalty=generation.repetition_penalty))
    if generation.no_repeat_ngram_size:
        chosen.append(partial(ban_repeated_ngrams, size=generation.no_repeat_ngram_size))
    if generation.min_new_tokens:
        until = num_start + generation.min_new_tokens
        chosen.append(partial(ban_end, until=until, end_token=end_token))
    sampling = generation.sampling
    if sampling.enabled:
        # Sampling from NaN triggers an assertion on the GPU, which makes the process unusable. The
        # logprob, from the unmodified logits, still shows that the image failed.
        chosen.append(replace_infinite)
        if sampling.temperature != 1.0:
            chosen.append(partial(divide, temperature=sampling.temperature))
        if sampling.top_k is not None:
            chosen.append(partial(keep_best, num_kept=sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(partial(keep_nucleus, probability=sampling.top_p))
    return partial(_apply, chosen)


def _apply(
    chosen: list[Process], tokens: Int[Tensor, "n t"], scores: Float[Tensor, "n v"]
) -> Float[Tensor, "n v"]:
    for process in chosen:
        scores = process(tokens, scores)
    return scores


def penalise_repetition(
    tokens: Int[Tensor, "n t"], scores: Float[Tensor, "n v"], penalty: float
) -> Float[Tensor, "n v"]:
    """Make tokens that a row has less likely, or more likely with a penalty below 1.

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    found = scores.gather(1, tokens)
    changed = torch.where(found < 0, found * penalty, found / penalty)
    return scores.scatter(1, tokens, changed)


def ban_repeated_ngrams(
    tokens: Int[Tensor, "n t"], scores: Float[Tensor, "n v"], size: int
) -> Float[Tensor, "n v"]:
    """Ban tokens that would complete a sequence of tokens that a row has."""
    num_tokens, num_words = tokens.shape[1], scores.shape[1]
    if num_tokens < size:
        return scores
    ngrams = tokens.unfold(1, size, 1)
    suffix = tokens[:, None, num_tokens + 1 - size :]
    repeats = (ngrams[..., :-1] == suffix).all(-1)
    # Others ban a column beside the vocabulary.
    ends = torch.where(repeats, ngrams[..., -1], num_words)
    banned = torch.zeros(len(scores), num_words + 1, dtype=torch.bool, device=scores.device)
    return scores.masked_fill(banned.scatter_(1, ends, True)[:, :num_words], -torch.inf)


def ban_end(
    tokens: Int[Tensor, "n t"], scores: Float[Tensor, "n v"], until: int, end_token: int
) -> Float[Tensor, "n v"]:
    """Ban the end token until a row has a number of tokens."""
    if tokens.shape[1] >= until:
        return scores
    is_end = torch.arange(scores.shape[1], device=scores.device) == end_token
    return scores.masked_fill(is_end, -torch.inf)


def replace_infinite(
    tokens: Int[Tensor, "n t"],  # noqa: ARG001  as every process
    scores: Float[Tensor, "n v"],
) -> Float[Tensor, "n v"]:
    """Replace NaN by 0, and infinite scores by the largest finite ones."""
    return scores.nan_to_num(0.0)


def divide(
    tokens: Int[Tensor, "n t"],  # noqa: ARG001  as every process
    scores: Float[Tensor, "n v"],
    temperature: float,
) -> Float[Tensor, "n v"]:
    """Divide scores by the temperature."""
    return scores / temperature


def keep_best(
    tokens: Int[Tensor, "n t"],  # noqa: ARG001  as every process
    scores: Float[Tensor, "n v"],
    num_kept: int,
) -> Float[Tensor, "n v"]:
    """Ban all tokens but the best, and those with equal scores."""
    least = scores.topk(min(num_kept, scores.shape[1]))[0][:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def keep_nucleus(
    tokens: Int[Tensor, "n t"],  # noqa: ARG001  as every process
    scores: Float[Tensor, "n v"],
    probability: float,
) -> Float[Tensor, "n v"]:
    """Ban all tokens but the most likely ones that together reach a probability.

    Source: Holtzman et al. 2019, arXiv:1904.09751, section 3.1.
    """
    ascending, order = scores.sort()
    banned = ascending.softmax(-1).cumsum(-1) <= 1 - probability
    banned = functional.pad(banned[:, :-1], (0, 1))  # never the most likely one
    return scores.masked_fill(banned.scatter(1, order, banned), -torch.inf)
