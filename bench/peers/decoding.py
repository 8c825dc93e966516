"""Captions by raycap's search and any runtime that computes BLIP's two graphs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.blip import NUM_TOKENS
from raycap.config import GenerationConfig
from raycap.models.blip.decoding import BlipDecodingState, encode_images
from raycap.models.decoding import decode
from raycap.models.decoding.state import DecodingState

Captions = list[list[int]]
"""Token ids of the best caption of each image."""


class Runtime(Protocol):
    """Computes the graphs of `bench.peers.graphs`; `Arrays` are the runtime's own."""

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Sequence[Any]:
        """Return keys and values of cross attention."""

    def empty_cache(self, num_rows: int) -> Sequence[Any]:
        """Return the cache before any token."""

    def step(
        self,
        tokens: Int[Tensor, "b r"],
        parents: Int[Tensor, " n"],
        of_images: Sequence[Any],
        of_tokens: Sequence[Any],
    ) -> tuple[Float[Tensor, "n v"], Sequence[Any]]:
        """Return the logits and the extended cache."""


class GraphState:
    """A batch of images in a runtime; a `DecodingState`."""

    def __init__(self, runtime: Runtime, pixels: Float[Tensor, "b 3 h w"]) -> None:
        self._runtime = runtime
        self._num_images = len(pixels)
        self._of_images = runtime.encode(pixels)
        self._of_tokens = runtime.empty_cache(len(pixels))
        self._parents = torch.arange(len(pixels))

    def feed(self, tokens: Int[Tensor, "n 1"]) -> Float[Tensor, "n v"]:
        """Read one token of every row."""
        logits, self._of_tokens = self._runtime.step(
            tokens.reshape(self._num_images, -1), self._parents, self._of_images, self._of_tokens
        )
        self._parents = torch.arange(len(tokens))
        if not math.isfinite(float(logits.sum())):
            raise FloatingPointError("the logits are not finite")
        return logits

    def widen(self, num_rows: int) -> None:
        """Copy the row of every image, with the next token."""
        self._parents = self._parents.repeat_interleave(num_rows)

    def reorder(self, rows: Int[Tensor, " n"]) -> None:
        """Continue rows from other rows, with the next token."""
        self._parents = self._parents[rows]

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Not needed: captions of a forced length end together."""
        raise NotImplementedError


def settings(num_beams: int) -> GenerationConfig:
    """Return the settings of a caption of the forced length."""
    return GenerationConfig(
        num_beams=num_beams, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS
    )


def search(
    blip: Any, state: Callable[[Tensor], DecodingState], pixels: Tensor, num_beams: int
) -> Captions:
    """Caption a batch of normalised pixels with raycap's search."""
    text = blip.config.text_config
    start = torch.full((len(pixels), 1), text.bos_token_id)
    with torch.inference_mode():
        found = decode(state(pixels), start, settings(num_beams), text.sep_token_id)
    return [best.tokens for best, *_ in found]


def raycap_state(blip: Any, pixels: Float[Tensor, "b 3 h w"]) -> BlipDecodingState:
    """Return raycap's own state of a batch, as its captioner makes it."""
    images = encode_images(blip.vision_model, pixels.to(blip.dtype))
    return BlipDecodingState(blip.text_decoder, images, NUM_TOKENS)
