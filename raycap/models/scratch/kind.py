"""The kinds of captioner that raycap trains from scratch, and their folders.

config.json               model_type (the kind), architecture, vocabulary_size
model.safetensors         all weights, including those of a frozen encoder
tokenizer.json            see `tokenizer`
preprocessor_config.json  size, mean and standard deviation of the pixels
generation_config.json    generation settings in the format of transformers
raycap.json               kind, generation settings of raycap, training record

torch takes seconds to import, so it is imported only to build or load a model.
"""

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycap.config import ArchitectureConfig, GenerationConfig, ModelConfig, TrainConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Captioner, TrainableKind
from raycap.models.folders import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    Preprocessing,
    check_weights,
    read_json,
    read_preprocessing,
    read_section,
    write_json,
)
from raycap.models.generation import write_generation


class ScratchKind(TrainableKind):
    """One decoder over the grid of a convolutional encoder; all kinds share everything else."""

    default_lr = 5e-4

    def __init__(self, name: str, decoder: str, *, splits_width: bool = False) -> None:
        """Describe a kind.

        Args:
            name: Of the kind.
            decoder: Its class, a `decoders.Decoder`, as `module:class`: importing it takes torch.
            splits_width: Whether `architecture.num_heads` must divide `architecture.width`.
        """
        self.name = name
        self.splits_width = splits_width
        self._decoder = decoder

    def decoder(self) -> Any:
        """Import the class of the decoder."""
        return pkgutil.resolve_name(f"{__package__}.{self._decoder}")

    def check(self, folder: Path) -> Target:
        """Check a folder; see `check_scratch_folder`."""
        return check_scratch_folder(folder).preprocessing.target

    def load(
        self, folder: Path | None, model: ModelConfig, generation: GenerationConfig
    ) -> Captioner:
        """Load a folder; see `load_scratch_captioner`."""
        from raycap.models.scratch.captioner import load_scratch_captioner  # noqa: PLC0415

        assert folder is not None
        return load_scratch_captioner(folder, model, generation)

    def write_generation(self, folder: Path, generation: GenerationConfig) -> None:
        """Write `generation_config.json`."""
        from raycap.models.scratch.tokenizer import END, PAD, START  # noqa: PLC0415

        write_generation(folder, generation, pad=PAD, start=START, end=END)

    def build_trainable(self, config: TrainConfig, captions: Iterable[str]) -> Any:
        """Build a model; see `build_scratch_trainable`."""
        from raycap.models.scratch.training import build_scratch_trainable  # noqa: PLC0415

        return build_scratch_trainable(config, captions)

    def load_trainable(self, folder: Path, config: TrainConfig) -> Any:
        """Load a folder for training; see `load_scratch_trainable`."""
        from raycap.models.scratch.training import load_scratch_trainable  # noqa: PLC0415

        return load_scratch_trainable(folder, config)


SCRATCH_KINDS = {
    kind.name: kind
    for kind in (
        ScratchKind("cnn-lstm", "cnn_lstm:CnnLstmDecoder"),
        ScratchKind("transformer", "transformer:TransformerDecoder", splits_width=True),
        ScratchKind("hybrid", "hybrid:HybridDecoder"),
    )
}
"""Every kind of model that raycap trains from scratch, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchDescription:
    """The contents of `config.json` and `preprocessor_config.json`."""

    kind: str
    """A key of SCRATCH_KINDS."""
    architecture: ArchitectureConfig
    num_tokens: int
    """Size of the vocabulary."""
    preprocessing: Preprocessing


def check_scratch_folder(folder: Path) -> ScratchDescription:
    """Check that a folder holds a complete model of one of these kinds, and describe it.

    Raises:
        ModelError: a file is missing or of another kind of model, or files contradict each other.
    """
    file = folder / CONFIG_FILE
    config = read_json(file)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in SCRATCH_KINDS:
        raise ModelError(
            f"{folder}: a model of kind {kind!r}, not {', '.join(SCRATCH_KINDS)}: choose another "
            "folder",
            uri=str(folder),
        )
    architecture = _read_architecture(file, SCRATCH_KINDS[kind], config.get("architecture"))
    num_tokens = config.get("vocabulary_size")
    if not isinstance(num_tokens, int) or num_tokens < 1:
        raise ModelError(
            f"{file}: vocabulary_size is {num_tokens!r}, not a number: restore it", uri=str(file)
        )
    check_weights(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise ModelError(f"{folder}: no {TOKENIZER_FILE}: restore the file", uri=str(folder))
    preprocessing = read_preprocessing(folder)
    found = (preprocessing.target.height_px, preprocessing.target.width_px)
    if found != (architecture.image_px, architecture.image_px):
        raise ModelError(
            f"{folder}: the preprocessor makes {found[0]}x{found[1]} pixels, but the weights are "
            f"for {architecture.image_px}x{architecture.image_px} (architecture.image_px of "
            f"{CONFIG_FILE}): make the two files agree",
            uri=str(folder),
        )
    return ScratchDescription(
        kind=kind, architecture=architecture, num_tokens=num_tokens, preprocessing=preprocessing
    )


def write_description(folder: Path, found: ScratchDescription) -> None:
    """Write `config.json`, which `check_scratch_folder` reads."""
    write_json(
        folder / CONFIG_FILE,
        {
            "model_type": found.kind,
            "architecture": found.architecture.model_dump(mode="json"),
            "vocabulary_size": found.num_tokens,
        },
    )


def _read_architecture(file: Path, kind: ScratchKind, values: object) -> ArchitectureConfig:
    architecture = read_section(file, ArchitectureConfig, values, "architecture")
    if kind.splits_width and architecture.width % architecture.num_heads:
        raise ModelError(
            f"{file}: architecture.num_heads={architecture.num_heads} does not divide "
            f"architecture.width={architecture.width}: restore the file",
            uri=str(file),
        )
    return architecture
