"""What every model that can be trained is: images and captions in, logits out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from raycap.config import GenerationConfig
from raycap.images.decoding import Target
from raycap.models.base import Captioner

IGNORED = -100
"""Target of a position that carries no loss: padding, and the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Captions as a network reads and is asked for them; all `[B, T]`, padded at the end."""

    inputs: Int[Tensor, "b t"]
    """Tokens that the decoder reads: the start token, the prompt, the caption."""
    mask: Int[Tensor, "b t"]
    """1 where there is a token, 0 where there is padding."""
    targets: Int[Tensor, "b t"]
    """The token that should follow each position, the end token last; or IGNORED."""


@runtime_checkable
class Trainable(Protocol):
    """A model with what belongs to it: tokenizer, preprocessing, and how to save it."""

    @property
    def kind(self) -> str:
        """`blip`, `cnn-lstm`, `transformer` or `hybrid`."""

    @property
    def target(self) -> Target:
        """The pixels it wants."""

    @property
    def network(self) -> nn.Module:
        """Maps `(pixels uint8 [B, 3, H, W], inputs [B, T], mask [B, T])` to logits `[B, T, V]`.

        Normalises the pixels itself, on its device. Parameters that are not to be trained have
        `requires_grad` false; batch norms of a frozen encoder keep their statistics in training.
        """

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        """Turn captions into tokens, on the CPU; what is too long is cut, its end token kept."""

    def captioner(self, generation: GenerationConfig) -> Captioner:
        """Caption with the network as it is now; shares its weights."""

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        """Write a folder that `raycap caption --model` runs and `load_trainable` continues from.

        `training` goes into `raycap.json`, `generation` into `generation_config.json`.
        """


def batch_tokens(
    start: Sequence[int], bodies: Sequence[Sequence[int]], *, pad: int, end: int
) -> TokenBatch:
    """Lay captions into a batch, on the CPU.

    Args:
        start: What each begins with: the start token, and a prompt, which carries no loss.
        bodies: Tokens of each caption.
        pad: The token of padding.
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
