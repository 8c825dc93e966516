"""Generation settings: their names in transformers' `generate`, and what backends support.

Imports no torch.
"""

from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig
from raycap.errors import ConfigError
from raycap.models.folders import GENERATION_FILE, write_json


def search_settings(generation: GenerationConfig) -> dict[str, Any]:
    """Return the settings of a search; what is not in them is left at transformers' defaults."""
    settings: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens or None,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": generation.sampling.enabled,
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if generation.sampling.enabled:
        settings |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
            # Sampling from NaN triggers an assertion on the GPU, which makes the process unusable.
            # The logprob, from the unmodified logits, still shows that the image failed.
            "remove_invalid_values": True,
        }
    return settings


def write_generation(
    folder: Path, generation: GenerationConfig, *, pad: int | None, start: int, end: int
) -> None:
    """Write `generation_config.json`.

    Args:
        folder: Of the model.
        generation: The settings.
        pad: Token of padding; None if the model has none.
        start: Token that starts a caption.
        end: Token that ends a caption.
    """
    tokens = {"pad_token_id": pad, "bos_token_id": start, "eos_token_id": end}
    settings = {**tokens, **search_settings(generation)}
    given = {name: value for name, value in settings.items() if value is not None}
    write_json(folder / GENERATION_FILE, given)


def check_single_search(backend: str, generation: GenerationConfig) -> None:
    """Check the settings of a backend that writes one answer, token by token.

    Raises:
        ConfigError: they ask for beams, several captions, or a penalty that it does not have.
    """
    wrong = {
        "num_beams": (generation.num_beams > 1, "1", "no beam search"),
        "num_captions": (generation.num_captions > 1, "1", "one caption per image"),
        "no_repeat_ngram_size": (generation.no_repeat_ngram_size > 0, "0", "no such penalty"),
    }
    for name, (is_wrong, value, reason) in wrong.items():
        if is_wrong:
            raise ConfigError(
                f"backend={backend} has {reason}: set generation.{name}={value}",
                setting=f"generation.{name}",
            )
