"""What the folder of a captioner trained from scratch says of itself, read without torch.

config.json               model_type, the kind; architecture; vocabulary_size
model.safetensors         all weights, those of a frozen encoder, too
tokenizer.json            see `tokenizer`
preprocessor_config.json  size, mean and deviation of the pixels
generation_config.json    how captions are searched for, in transformers' words
raycap.json               kind, generation in raycap's own words, training
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raycap.config import ArchitectureConfig, GenerationConfig
from raycap.errors import ModelError
from raycap.models.folders import (
    CONFIG_FILE,
    GENERATION_FILE,
    SCRATCH_KINDS,
    TOKENIZER_FILE,
    Preprocessing,
    check_weights,
    read_json,
    read_kind,
    read_preprocessing,
    write_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchDescription:
    """What a captioner trained from scratch is made of."""

    kind: str
    """One of SCRATCH_KINDS."""
    architecture: ArchitectureConfig
    num_tokens: int
    """Tokens that there are."""
    preprocessing: Preprocessing


def check_scratch_folder(folder: Path) -> ScratchDescription:
    """Check that a folder holds all of a captioner trained from scratch, and describe it.

    Raises:
        ModelError: something is missing, of another kind, or contradicts itself.
    """
    kind = read_kind(folder)
    if kind not in SCRATCH_KINDS:
        raise ModelError(
            f"{folder}: a model of kind {kind!r}, not {', '.join(SCRATCH_KINDS)}: choose another "
            "folder"
        )
    file = folder / CONFIG_FILE
    config = read_json(file)
    architecture = _read_architecture(file, kind, config.get("architecture"))
    num_tokens = config.get("vocabulary_size")
    if not isinstance(num_tokens, int) or num_tokens < 1:
        raise ModelError(f"{file}: vocabulary_size is {num_tokens!r}, not a number: restore it")
    check_weights(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise ModelError(f"{folder}: no {TOKENIZER_FILE}: restore the file")
    preprocessing = read_preprocessing(folder)
    found = (preprocessing.target.height_px, preprocessing.target.width_px)
    if found != (architecture.image_px, architecture.image_px):
        raise ModelError(
            f"{folder}: the preprocessor makes {found[0]}x{found[1]} pixels, but the weights are "
            f"for {architecture.image_px}x{architecture.image_px} (architecture.image_px of "
            f"{CONFIG_FILE}): make the two files agree"
        )
    return ScratchDescription(
        kind=kind, architecture=architecture, num_tokens=num_tokens, preprocessing=preprocessing
    )


def write_description(folder: Path, found: ScratchDescription) -> None:
    """Write what `check_scratch_folder` reads of `config.json`."""
    write_json(
        folder / CONFIG_FILE,
        {
            "model_type": found.kind,
            "architecture": found.architecture.model_dump(mode="json"),
            "vocabulary_size": found.num_tokens,
        },
    )


def write_generation(
    folder: Path, generation: GenerationConfig, tokens: tuple[int, int, int]
) -> None:
    """Write how captions are searched for in transformers' words.

    Args:
        folder: of the model.
        generation: the settings.
        tokens: padding, start and end.
    """
    sampling = generation.sampling
    settings: dict[str, Any] = {
        **dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"), tokens, strict=True)),
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": sampling.enabled,
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if sampling.enabled:
        settings |= {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or 0,
            "top_p": sampling.top_p,
        }
    write_json(folder / GENERATION_FILE, settings)


def _read_architecture(file: Path, kind: str, values: object) -> ArchitectureConfig:
    try:
        architecture = ArchitectureConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(("architecture", *map(str, first["loc"])))
        raise ModelError(f"{file}: {place}: {first['msg']}: restore the file") from None
    if kind == "transformer" and architecture.width % architecture.num_heads:
        raise ModelError(
            f"{file}: architecture.num_heads={architecture.num_heads} does not divide "
            f"architecture.width={architecture.width}: restore the file"
        )
    return architecture
