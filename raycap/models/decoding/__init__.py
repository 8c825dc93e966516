"""Captions from any model that predicts one token after the other: greedy, beams and draws.

Token for token those of transformers' `generate`. A captioner brings a `DecodingState` and gets
its captions from `caption_with`.

Captions written token by token: the likeliest at every step (greedy), or one drawn.

Token for token those of transformers' `generate`; an image leaves the batch when all its captions
have ended.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from raycap.config import GenerationConfig
from raycap.models.base import Caption, image_seed
from raycap.models.decoding.beam_search import BeamSearch, EarlyStopping
from raycap.models.decoding.state import Decoded, DecodingState, Search, logits_processors

# B = images left, R = captions an image (1 where greedy), T = start and generated tokens


class TokenSearch:
    """The captions of the images left; a `Search`."""

    def __init__(
        self,
        state: DecodingState,
        start: Int[Tensor, "b p"],
        generation: GenerationConfig,
        end_token: int,
    ) -> None:
        self._state = state
        self._end_token = end_token
        self._last = generation.max_new_tokens - 1
        self._draws = generation.sampling.enabled
        self._num_start = start.shape[1]
        self._num_rows = generation.num_captions if self._draws else 1
        self._process: Any = logits_processors(generation, self._num_start, end_token, start.device)
        shape = (len(start), self._num_rows)
        self._tokens = start[:, None].expand(-1, self._num_rows, -1)
        self._totals = torch.zeros(shape, device=start.device)
        self._lengths = start.new_zeros(shape)
        self._open = torch.ones(shape, dtype=torch.bool, device=start.device)

    def advance(self, step: int) -> None:
        """Write one more token."""
        logits = self._logits(step)
        scores = self._process(self._tokens.flatten(0, 1), logits)
        # A caption that has ended, while others of its image go on, is fed end tokens.
        tokens = torch.where(self._open, self._pick(scores), self._end_token)
        logprobs = logits.log_softmax(-1).gather(1, tokens.view(-1, 1)).view_as(self._totals)
        self._totals = self._totals + torch.where(self._open, logprobs, 0.0)
        self._lengths = self._lengths + self._open
        self._tokens = torch.cat((self._tokens, tokens[..., None]), 2)
        self._open = self._open & (tokens != self._end_token)

    def running(self, step: int) -> Bool[Tensor, " b"]:
        """Which images have a caption that goes on."""
        return self._open.any(1) & (step < self._last)

    def keep(self, places: list[int], num_images: int) -> None:
        """Go on with the images at these places."""
        if len(places) == num_images:
            return
        kept = torch.tensor(places, device=self._tokens.device)
        self._state.keep(kept)
        self._tokens, self._totals = self._tokens[kept], self._totals[kept]
        self._lengths, self._open = self._lengths[kept], self._open[kept]

    def found(self, place: int) -> list[Decoded]:
        """Read the captions of the image at a place, as they came."""
        rows = zip(
            self._tokens[place, :, self._num_start :].tolist(),
            self._lengths[place].tolist(),
            (self._totals[place] / self._lengths[place]).tolist(),
            strict=True,
        )
        return [
            Decoded(tokens=tokens[:length], logprob=logprob, score=logprob)
            for tokens, length, logprob in rows
        ]

    def _logits(self, step: int) -> Float[Tensor, "n v"]:
        if step:
            return self._state.feed(self._tokens[:, :, -1].flatten()[:, None]).to(torch.float32)
        logits = self._state.feed(self._tokens[:, 0]).to(torch.float32)
        if self._num_rows > 1:
            self._state.widen(self._num_rows)
            logits = logits.repeat_interleave(self._num_rows, 0)
        return logits

    def _pick(self, scores: Float[Tensor, "n v"]) -> Int[Tensor, "b r"]:
        tokens = scores.softmax(-1).multinomial(1) if self._draws else scores.argmax(-1)
        return tokens.view_as(self._lengths)


def decode(
    state: DecodingState,
    start: Int[Tensor, "b p"],
    generation: GenerationConfig,
    end_token: int,
    early_stopping: EarlyStopping = False,
) -> list[list[Decoded]]:
    """Find `generation.num_captions` captions for every image.

    Draws, where `generation.sampling` asks for them, come from torch's own generator of the
    device, one step of all rows after the other, so that they depend on the batch.

    Args:
        state: The images, which have read nothing yet.
        start: What each caption starts with, the prompt included.
        generation: How captions are searched for.
        end_token: Ends a caption.
        early_stopping: When a beam search is done with an image; see `BeamSearch`.

    Returns:
        Captions for each image; of a beam search the best first, of draws as they came.
    """
    search: Search
    if generation.num_beams > 1:
        search = BeamSearch(state, start, generation, end_token, early_stopping)
    else:
        search = TokenSearch(state, start, generation, end_token)
    found: list[list[Decoded]] = [[] for _ in start]
    images = list(range(len(start)))
    for step in range(generation.max_new_tokens):
        search.advance(step)
        running = search.running(step).tolist()
        for place, image in enumerate(images):
            if not running[place]:
                found[image] = search.found(place)
        kept = _survivors(running)
        if not kept:
            break
        search.keep(kept, len(images))
        images = [images[place] for place in kept]
    return found


def caption_with(
    decode_batch: Callable[[UInt8[np.ndarray, "b h w 3"]], list[list[Decoded]]],
    text: Callable[[list[int]], str],
    pixels: UInt8[np.ndarray, "b h w 3"],
    generation: GenerationConfig,
    device: torch.device,
) -> list[Caption]:
    """Caption a batch as every captioner does: see `Captioner.caption`.

    The best caption is the one of the highest beam score (which knows `length_penalty`), or of
    the highest `logprob` where sampled. Sampling goes image by image, from a seed of the image's
    pixels, so that the draws do not depend on the batch.

    Args:
        decode_batch: Decodes pixels with `decode`.
        text: Turns a caption's generated tokens, the end token among them, into the whole text.
        pixels: The images.
        generation: How captions are searched for.
        device: Where the draws are made.

    Raises:
        FloatingPointError: the model's numbers for one of the images are not finite.
    """
    if not len(pixels):
        return []
    if generation.sampling.enabled:
        found = []
        for image in pixels:
            with _draws_of(image, generation.sampling.seed, device):
                drawn = decode_batch(image[None])[0]
            found.append(sorted(drawn, key=lambda one: -one.logprob))
    else:
        found = decode_batch(pixels)
    _check_finite(found)
    groups = [[Caption(text=text(one.tokens), logprob=one.logprob) for one in of] for of in found]
    return [replace(best, alternatives=tuple(rest)) for best, *rest in groups]


def _survivors(running: Sequence[bool]) -> list[int]:
    """List the places of what still runs, the holes before them filled from the end."""
    places = [place for place, runs in enumerate(running) if runs]
    late = [place for place in places if place >= len(places)]
    return [place if running[place] else late.pop() for place in range(len(places))]


@contextmanager
def _draws_of(image: UInt8[np.ndarray, "h w 3"], seed: int, device: torch.device) -> Iterator[None]:
    """Let an image's pixels and a seed decide torch's draws, and leave its generator untouched."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):
        torch.manual_seed(image_seed(image, seed))
        yield


def _check_finite(found: list[list[Decoded]]) -> None:
    failed = [
        str(image)
        for image, captions in enumerate(found)
        if not all(math.isfinite(caption.logprob) for caption in captions)
    ]
    if failed:
        raise FloatingPointError(
            f"the model's numbers are not finite for image {', '.join(failed)} of the batch"
        )
