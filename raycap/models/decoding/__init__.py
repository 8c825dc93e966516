"""Decoding of captions with any model that predicts one token at a time: greedy, beams, sampling.

Captions equal those of transformers' `generate`, token for token. A captioner implements
`DecodingState` and calls `caption_with`. Images leave the batch when all their captions have ended.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from raycap.config import GenerationConfig
from raycap.models.base import Caption, image_seed
from raycap.models.decoding.beam_search import BeamSearch, EarlyStopping
from raycap.models.decoding.processors import build_process
from raycap.models.decoding.state import Decoded, DecodingState, Search

# B = remaining images, R = captions per image (1 if greedy), T = start and generated tokens


class TokenSearch:
    """Greedy search, or sampling, over the remaining images; a `Search`."""

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
        self._process = build_process(generation, self._num_start, end_token)
        shape = (len(start), self._num_rows)
        self._tokens = start[:, None].expand(-1, self._num_rows, -1)
        self._totals = torch.zeros(shape, device=start.device)
        self._lengths = start.new_zeros(shape)
        self._open = torch.ones(shape, dtype=torch.bool, device=start.device)

    def advance(self, step: int) -> None:
        """Append one token to every caption."""
        logits = self._logits(step)
        scores = self._process(self._tokens.flatten(0, 1), logits)
        # A caption that has ended while others of its image continue is fed end tokens.
        tokens = torch.where(self._open, self._pick(scores), self._end_token)
        logprobs = logits.log_softmax(-1).gather(1, tokens.view(-1, 1)).view_as(self._totals)
        self._totals = self._totals + torch.where(self._open, logprobs, 0.0)
        self._lengths = self._lengths + self._open
        self._tokens = torch.cat((self._tokens, tokens[..., None]), 2)
        self._open = self._open & (tokens != self._end_token)

    def running(self, step: int) -> Bool[Tensor, " b"]:
        """Return which images have an unfinished caption."""
        return self._open.any(1) & (step < self._last)

    def keep(self, places: list[int], num_images: int) -> None:
        """Continue with the images at these places."""
        if len(places) == num_images:
            return
        kept = torch.tensor(places, device=self._tokens.device)
        self._state.keep(kept)
        self._tokens, self._totals = self._tokens[kept], self._totals[kept]
        self._lengths, self._open = self._lengths[kept], self._open[kept]

    def found(self, place: int) -> list[Decoded]:
        """Return the captions of the image at a place, unsorted."""
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
    """Generate `generation.num_captions` captions for every image.

    Sampling uses torch's generator of the device, step by step for all rows, so that samples
    depend on the batch.

    Args:
        state: The images, before any token.
        start: First tokens of each caption, including the prompt.
        generation: How captions are generated.
        end_token: The token that ends a caption.
        early_stopping: When a beam search finishes an image; see `BeamSearch`.

    Returns:
        Captions per image: the best first for a beam search, unsorted if sampled.
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
    decode_batch: Callable[[slice], list[list[Decoded]]],
    text: Callable[[int, list[int]], str],
    pixels: UInt8[np.ndarray, "b h w 3"],
    generation: GenerationConfig,
    device: torch.device,
    end_tokens: Collection[int],
) -> list[Caption]:
    """Caption a batch for a captioner; implements `Captioner.caption`.

    The best caption has the highest beam score (which includes `length_penalty`), or the highest
    `logprob` if captions are sampled. Images are sampled one by one, with a seed from their pixels,
    so that samples do not depend on the batch.

    Args:
        decode_batch: Decodes a slice of the images with `decode`.
        text: Converts the generated tokens of a caption, including the end token, to its text,
            given the position of its image.
        pixels: The images.
        generation: How captions are generated.
        device: Where tokens are sampled.
        end_tokens: Tokens that end a caption.

    Raises:
        FloatingPointError: the scores of an image are not finite.
    """
    if not len(pixels):
        return []
    if generation.sampling.enabled:
        found = []
        for place, image in enumerate(pixels):
            with _draws_of(image, generation.sampling.seed, device):
                drawn = decode_batch(slice(place, place + 1))[0]
            found.append(sorted(drawn, key=lambda one: -one.logprob))
    else:
        found = decode_batch(slice(None))
    _check_finite(found)
    captions = []
    for place, decoded in enumerate(found):
        best, *rest = (_caption(one, text(place, one.tokens), end_tokens) for one in decoded)
        captions.append(replace(best, alternatives=tuple(rest)))
    return captions


def _caption(one: Decoded, text: str, end_tokens: Collection[int]) -> Caption:
    has_ended = bool(one.tokens) and one.tokens[-1] in end_tokens
    return Caption(
        text=text,
        logprob=one.logprob,
        finish="stop" if has_ended else "length",
        num_tokens=len(one.tokens) - has_ended,
    )


def _survivors(running: Sequence[bool]) -> list[int]:
    """List the places of unfinished images; the last ones fill the gaps before them."""
    places = [place for place, runs in enumerate(running) if runs]
    late = [place for place in places if place >= len(places)]
    return [place if running[place] else late.pop() for place in range(len(places))]


@contextmanager
def _draws_of(image: UInt8[np.ndarray, "h w 3"], seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generator by an image's pixels and a seed; restore the generator afterwards."""
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
            f"the model's scores are not finite for image {', '.join(failed)} of the batch"
        )
