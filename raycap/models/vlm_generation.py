"""What transformers' `generate` is told, and what is read of its answer."""

from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationMixin

from raycap.config import GenerationConfig
from raycap.models.decoding_state import Decoded

_Settings: Any = transformers.GenerationConfig  # untyped there

_SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)

# N = captions, T = generated tokens, V = vocabulary


def generating_module(model: Any) -> Any:
    """Find the module whose `generate` runs the search, by its own special tokens.

    That is the model itself, unless it hands its input on to a language model, as BLIP-2 does.
    """
    if type(model).generate is GenerationMixin.generate:
        return model
    inner = [
        module
        for module in model.modules()
        if isinstance(module, GenerationMixin) and module is not model
    ]
    return inner[-1] if inner else model


def special_tokens(module: Any) -> dict[str, Any]:
    """Read the tokens that a module's own generation settings name, and drop all else of them.

    What else is there (sampling, penalties, lengths) would fill in what raycap leaves unset.
    """
    own = module.generation_config
    tokens = {name: getattr(own, name, None) for name in _SPECIAL_TOKENS}
    if tokens["pad_token_id"] is None and tokens["eos_token_id"] is not None:
        tokens["pad_token_id"] = _ids(tokens["eos_token_id"])[0]
    tokens = {name: value for name, value in tokens.items() if value is not None}
    module.generation_config = _Settings(**tokens)
    return tokens


def generation_settings(tokens: dict[str, Any], generation: GenerationConfig) -> Any:
    """Say all that decides a caption in transformers' words.

    Args:
        tokens: As of `special_tokens`.
        generation: How captions are searched for.
    """
    settings: dict[str, Any] = {
        **tokens,
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens or None,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": generation.sampling.enabled,
        "return_dict_in_generate": True,
        "output_logits": True,  # of every step until the last one, in fp32
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if generation.sampling.enabled:
        settings |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
            "remove_invalid_values": True,  # as of `blip`
        }
    return _Settings(**settings)


def read_generated(
    generated: Any, tokens: dict[str, Any], num_captions: int
) -> list[list[Decoded]]:
    """Read what `generate` wrote, with the log-probability of each caption.

    A first token that the model's settings force on it counts in no mean: it was not chosen.

    Args:
        generated: With `output_logits`, of greedy search, beams or draws.
        tokens: As of `special_tokens`.
        num_captions: Captions an image.

    Returns:
        Captions for each image, in the order of `generate`: of beams the best first. It has ranked
        them, so that the score is only the `logprob`.
    """
    beams = getattr(generated, "beam_indices", None)
    num_steps = len(generated.logits) if beams is None else beams.shape[1]
    written = generated.sequences[:, generated.sequences.shape[1] - num_steps :]
    if beams is None:
        rows = torch.arange(len(written), device=written.device)[:, None].expand_as(written)
        lengths = _lengths(written, _ids(tokens.get("eos_token_id")))
    else:
        rows = beams.clamp(min=0).to(written.device, torch.long)
        lengths = (beams >= 0).sum(1).to(written.device)
    logprobs = _logprobs(generated.logits, written, rows)
    places = torch.arange(num_steps, device=written.device)
    first = 1 if tokens.get("forced_bos_token_id") is not None else 0
    counts = (places < lengths[:, None]) & (places >= first)
    means = torch.where(counts, logprobs, 0.0).sum(1) / counts.sum(1).clamp(min=1)
    found = [
        Decoded(tokens=row[:length], logprob=mean, score=mean)
        for row, length, mean in zip(
            written.tolist(), lengths.tolist(), means.tolist(), strict=True
        )
    ]
    return [found[at : at + num_captions] for at in range(0, len(found), num_captions)]


def _logprobs(
    logits: tuple[Tensor, ...], written: Int[Tensor, "n t"], rows: Int[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """Look up each token in the logits of the row that it was chosen from, step by step."""
    chosen = [
        of_step[rows[:, step]].log_softmax(-1).gather(1, written[:, step : step + 1])
        for step, of_step in enumerate(logits[: written.shape[1]])
    ]
    return torch.cat(chosen, 1)


def _lengths(written: Int[Tensor, "n t"], ends: list[int]) -> Int[Tensor, " n"]:
    """Count the tokens of each caption, the first end token among them."""
    is_end = torch.isin(written, torch.tensor(ends, device=written.device))
    before = (is_end.cumsum(1) == 0).sum(1)
    return (before + 1).clamp(max=written.shape[1])


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
