"""Captioning with models trained from scratch."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.images.decoding import Target
from raycap.models.base import Attended, Caption
from raycap.models.decoding import caption_with, decode
from raycap.models.decoding.state import Decoded
from raycap.models.device import own_stream, pick_device, pick_dtype, upload
from raycap.models.scratch.decoders import ReadingState
from raycap.models.scratch.hybrid import HybridDecoder
from raycap.models.scratch.model import ScratchModel, load_model
from raycap.models.scratch.tokenizer import END, PAD, START


class ScratchCaptioner:
    """Captions images with a model of any of these kinds, in evaluation mode."""

    def __init__(self, model: ScratchModel, generation: GenerationConfig) -> None:
        model.network.eval()
        self._model = model
        self._generation = generation
        self._start = [START, *model.tokenizer.encode([generation.prompt])[0]]

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._model.description.preprocessing.target

    @torch.inference_mode()
    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; `alternatives` are sorted best first.

        The best caption has the highest beam score (which includes `length_penalty`), or the
        highest `logprob` if captions are sampled.

        Raises:
            FloatingPointError: the scores of an image are not finite.
        """
        with own_stream(self._model.device):
            return caption_with(
                lambda images: self._decode(pixels[images]),
                lambda _, tokens: self._text(tokens),
                pixels,
                self._generation,
                self._model.device,
                (END,),
            )

    def with_generation(self, generation: GenerationConfig) -> "ScratchCaptioner":
        """Return a captioner with other settings that shares the weights."""
        return type(self)(self._model, generation)

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count tokens as `generation.max_new_tokens` does, without the end token."""
        return [len(tokens) for tokens in self._model.tokenizer.encode(captions)]

    def _decode(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[list[Decoded]]:
        grid = self._see(pixels)
        state = ReadingState(self._model.network.decoder, grid)
        start = torch.tensor([self._start] * len(pixels), device=grid.device)
        return decode(state, start, self._generation, END)

    def _see(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        on_device = upload(pixels, self._model.device).permute(0, 3, 1, 2)
        grid: Tensor = self._model.network.encoder(on_device)
        return grid

    def _text(self, tokens: list[int]) -> str:
        return self._model.tokenizer.decode([*self._start[1:], *tokens])


class HybridCaptioner(ScratchCaptioner):
    """A captioner that returns its attention; an `AttentiveCaptioner`."""

    @torch.inference_mode()
    def attend_words(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Attended]:
        """Return the attention for each word of the best caption, including its punctuation.

        If captions are sampled, the caption of a greedy search is used instead.
        """
        return [self._joined(tokens, weights) for tokens, weights in self._attend(pixels)]

    def _attend(
        self, pixels: UInt8[np.ndarray, "b h w 3"]
    ) -> list[tuple[list[int], Float[np.ndarray, "t gh gw"]]]:
        if not len(pixels):
            return []
        search = self._generation.model_copy(
            update={"sampling": SamplingConfig(), "num_captions": 1}
        )
        found = [best.tokens for best, *_ in self.with_generation(search)._decode(pixels)]
        inputs = self._inputs(found)
        decoder = cast(HybridDecoder, self._model.network.decoder)
        memory = decoder.look(self._see(pixels))
        # Reads the whole captions again, with the same numbers as in the search.
        _, weights, _ = decoder.read_with_weights(inputs, memory, decoder.start(memory))
        side, first = self._model.grid_side, len(self._start) - 1
        grids = weights.to(torch.float32).view(*inputs.shape, side, side).cpu().numpy()
        attended = []
        for tokens, grid in zip(found, grids, strict=True):
            text = tokens[:-1] if tokens[-1] == END else tokens
            attended.append((text, grid[first : first + len(text)]))
        return attended

    def _inputs(self, found: list[list[int]]) -> Int[Tensor, "b t"]:
        longest = max(map(len, found))
        rows = [[*self._start, *tokens[:-1], *[PAD] * (longest - len(tokens))] for tokens in found]
        return torch.tensor(rows, device=self._model.device)

    def _joined(self, tokens: list[int], weights: Float[np.ndarray, "t gh gw"]) -> Attended:
        tokenizer = self._model.tokenizer
        starts = [at for at, token in enumerate(tokens) if not at or tokenizer.starts_word(token)]
        words = list(pairwise([*starts, len(tokens)]))
        means = [weights[first:end].mean(0) for first, end in words]
        return Attended(
            texts=[tokenizer.decode(tokens[first:end]) for first, end in words],
            weights=np.stack(means) if means else weights,
        )


def captioner_of(model: ScratchModel, generation: GenerationConfig) -> ScratchCaptioner:
    """Return the captioner for a model; one of a `hybrid` also returns its attention."""
    is_hybrid = isinstance(model.network.decoder, HybridDecoder)
    return (HybridCaptioner if is_hybrid else ScratchCaptioner)(model, generation)


def load_scratch_captioner(
    folder: Path, model: ModelConfig, generation: GenerationConfig
) -> ScratchCaptioner:
    """Load a folder onto the accelerator, or onto the CPU if there is none.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: the folder does not hold a complete model of one of these kinds.
    """
    assert model.precision != "int8"  # checked by sources.check_arithmetic
    assert model.precision != "fast"  # decided by load.load_captioner
    loaded = load_model(folder)
    device = pick_device()
    loaded.network.to(device, pick_dtype(model.precision, device))
    return captioner_of(loaded, generation)
