"""The interface of models that are trained, and the door to them: built new, or from weights.

A network maps images and the tokens of captions to logits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from raycap.config import GenerationConfig, TrainConfig
from raycap.errors import ConfigError
from raycap.images.decoding import Target
from raycap.models.base import Captioner
from raycap.models.kinds import find_trainable_kind
from raycap.models.sources import find_model, refuse_adapter

IGNORED = -100
"""Target of positions without loss: padding and the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """A batch of captions as network inputs and targets; all `[B, T]`, padded at the end."""

    inputs: Int[Tensor, "b t"]
    """Input tokens of the decoder: start token, prompt, caption."""
    mask: Int[Tensor, "b t"]
    """1 for tokens, 0 for padding."""
    targets: Int[Tensor, "b t"]
    """The token that should follow each position, ending with the end token; or IGNORED."""


@runtime_checkable  # the type checks of the test run use isinstance
class Trainable(Protocol):
    """A network with its tokenizer and preprocessing, which can be trained and saved."""

    @property
    def kind(self) -> str:
        """Name of its kind, such as `blip`."""

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""

    @property
    def network(self) -> nn.Module:
        """Maps `(pixels uint8 [B, 3, H, W], inputs [B, T], mask [B, T])` to logits `[B, T, V]`.

        It normalises the pixels itself, on its device. Frozen parameters have `requires_grad`
        false; batch norms of a frozen encoder keep their statistics during training.
        """

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        """Convert captions to tokens, on the CPU. Long ones are cut and keep their end token."""

    def captioner(self, generation: GenerationConfig) -> Captioner:
        """Return a captioner that shares the weights of the network."""

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        """Write a folder that `raycap caption --model` runs and `load_trainable` loads.

        `training` goes into `raycap.json`, `generation` there and into `generation_config.json`.
        """


def batch_tokens(
    start: Sequence[int], bodies: Sequence[Sequence[int]], *, pad: int, end: int
) -> TokenBatch:
    """Build a batch of captions, on the CPU.

    Args:
        start: Tokens at the start of each caption: the start token, and a prompt without loss.
        bodies: Tokens of each caption.
        pad: The padding token.
        end: The token that follows each caption.
    """
    length = len(start) + max((len(body) for body in bodies), default=0)
    inputs = torch.full((len(bodies), length), pad)
    mask = torch.zeros_like(inputs)
    targets = torch.full_like(inputs, IGNORED)
    for row, body in enumerate(bodies):
        read, asked = [*start, *body], [*body, end]
        inputs[row, : len(read)] = torch.tensor(read)
        mask[row, : len(read)] = 1
        targets[row, len(start) - 1 : len(read)] = torch.tensor(asked)
    return TokenBatch(inputs=inputs, mask=mask, targets=targets)


def build_trainable(config: TrainConfig, captions: Iterable[str]) -> Trainable:
    """Build the model that training starts from, on the CPU.

    Args:
        config: The settings; `init` names existing weights to start from.
        captions: All captions of the training split. A model from scratch learns its tokens from
            them.

    Raises:
        ModelError: the weights cannot be found or loaded.
        ConfigError: the weights are of another kind than the settings ask for.
    """
    kind = find_trainable_kind(config.kind)
    init = config.init or kind.default_init
    if init is None:
        return cast(Trainable, kind.build_trainable(config, captions))
    source = find_model(init)
    if source.kind != config.kind or source.folder is None:
        raise ConfigError(
            f"init={init} is a model of kind {source.kind!r}, not {config.kind!r}: set that kind, "
            "or give other weights",
            setting="init",
        )
    refuse_adapter(source, "training")
    return load_trainable(Path(source.folder), config)


def load_trainable(folder: Path, config: TrainConfig) -> Trainable:
    """Load a saved model for training, on the CPU.

    Raises:
        ModelError: the folder does not hold a model of the kind in the settings.
    """
    kind = find_trainable_kind(config.kind)
    return cast(Trainable, kind.load_trainable(folder, config))
