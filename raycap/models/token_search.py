"""Captions written token by token: the likeliest at every step (greedy), or one drawn.

Token for token those of transformers' `generate`; an image leaves the batch when all its captions
have ended.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raycap.config import GenerationConfig
from raycap.models.decoding_state import Decoded, DecodingState, logits_processors

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
