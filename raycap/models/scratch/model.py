"""Models trained from scratch: network, tokenizer, and how they are saved and loaded."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from raycap.config import ArchitectureConfig, GenerationConfig
from raycap.errors import ModelError
from raycap.models.folders import (
    KIND_FILE,
    PREPROCESSOR_FILE,
    TOKENIZER_FILE,
    WEIGHT_FILE,
    write_json,
)
from raycap.models.generation import write_generation
from raycap.models.scratch.decoders import Decoder
from raycap.models.scratch.encoders import (
    Encoder,
    build_encoder,
    grid_side,
    load_pretrained,
    num_channels,
    preprocessing_for,
)
from raycap.models.scratch.kind import (
    SCRATCH_KINDS,
    ScratchDescription,
    check_scratch_folder,
    write_description,
)
from raycap.models.scratch.tokenizer import END, PAD, SPECIAL_TOKENS, START, CaptionTokenizer


class CaptionNetwork(nn.Module):
    """Uint8 pixels and tokens in, logits out."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self,
        pixels: UInt8[Tensor, "b 3 h w"],
        inputs: Int[Tensor, "b t"],
        mask: Int[Tensor, "b t"],
    ) -> Float[Tensor, "b t v"]:
        """Predict the token that follows each position."""
        del mask  # padding is at the end, and no token attends to later ones
        logits: Tensor = self.decoder(self.encoder(pixels), inputs)
        return logits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScratchModel:
    """A network with its description and tokenizer."""

    description: ScratchDescription
    network: CaptionNetwork
    tokenizer: CaptionTokenizer

    @property
    def device(self) -> torch.device:
        """The current device of the network."""
        return next(self.network.parameters()).device

    @property
    def grid_side(self) -> int:
        """Cells per side of the grid that the decoder attends to."""
        return grid_side(self.description.architecture)

    def save(
        self, folder: Path, generation: GenerationConfig, training: dict[str, Any] | None = None
    ) -> None:
        """Write a folder as described in `kind`, in the precision in use."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        safetensors.torch.save_file(state, folder / WEIGHT_FILE, metadata={"format": "pt"})
        self.tokenizer.save(folder / TOKENIZER_FILE)
        write_description(folder, self.description)
        write_json(folder / PREPROCESSOR_FILE, self.description.preprocessing.to_json())
        write_generation(folder, generation, pad=PAD, start=START, end=END)
        mark = {
            "kind": self.description.kind,
            "generation": generation.model_dump(mode="json"),
            "training": training,
        }
        write_json(folder / KIND_FILE, {k: v for k, v in mark.items() if v is not None})


def build_model(
    kind: str, architecture: ArchitectureConfig, captions: Iterable[str], seed: int
) -> ScratchModel:
    """Build a model to train, on the CPU.

    Args:
        kind: A key of SCRATCH_KINDS.
        architecture: Encoder and sizes.
        captions: Tokens are learned from them.
        seed: Seed of the random weights.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: its ImageNet weights cannot be loaded, or there are no captions.
    """
    tokenizer = CaptionTokenizer.train(captions, architecture.vocabulary_size)
    if tokenizer.size == len(SPECIAL_TOKENS):
        raise ModelError("no caption to train on: the training split is empty, or its captions are")
    description = ScratchDescription(
        kind=kind,
        architecture=architecture,
        num_tokens=tokenizer.size,
        preprocessing=preprocessing_for(architecture),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = build_network(description)
    if architecture.pretrained:
        load_pretrained(network.encoder)
    return ScratchModel(description=description, network=network, tokenizer=tokenizer)


def build_network(description: ScratchDescription) -> CaptionNetwork:
    """Build a network with random weights, on the CPU.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
    """
    architecture = description.architecture
    channels, num_tokens = num_channels(architecture), description.num_tokens
    decoder = SCRATCH_KINDS[description.kind].decoder()(architecture, channels, num_tokens)
    return CaptionNetwork(build_encoder(architecture, description.preprocessing), decoder)


def load_model(folder: Path, tuning: ArchitectureConfig | None = None) -> ScratchModel:
    """Load a folder that `ScratchModel.save` wrote, on the CPU, in fp32.

    Args:
        folder: Of the model.
        tuning: Settings for training. Those that change no weight (`train_encoder`, `dropout` and
            `max_tokens`) override the ones of the folder.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: the folder does not hold such a model, or its files do not fit together.
    """
    description = check_scratch_folder(folder)
    if tuning is not None:
        kept = tuning.model_dump(include={"train_encoder", "dropout", "max_tokens"})
        architecture = description.architecture.model_copy(update=kept)
        description = replace(description, architecture=architecture)
    tokenizer = CaptionTokenizer.load(folder / TOKENIZER_FILE)
    if tokenizer.size != description.num_tokens:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, but the weights are for "
            f"{description.num_tokens}: restore its files",
            uri=str(folder),
        )
    network = build_network(description)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHT_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder}: cannot be loaded as {description.kind} ({type(error).__name__}: {reason}): "
            "restore its files or choose another model",
            uri=str(folder),
        ) from error
    return ScratchModel(description=description, network=network, tokenizer=tokenizer)
