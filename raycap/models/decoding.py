"""Captions from any model that predicts one token after the other: greedy, beams and draws.

Token for token those of transformers' `generate`. A captioner brings a `DecodingState` and gets
its captions from `caption_with`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from raycap.config import GenerationConfig
from raycap.models.base import Caption, image_seed
from raycap.models.beam_search import BeamSearch, EarlyStopping
from raycap.models.decoding_state import Decoded, DecodingState, Search
from raycap.models.token_search import TokenSearch


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
