"""Beam search that finds the captions of transformers' `generate`, token for token, at less cost.

All beams of an image share one reading of the start, and an image leaves the batch as soon as none
of its beams can become a better caption.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raycap.config import GenerationConfig
from raycap.models.decoding.processors import build_process
from raycap.models.decoding.state import Decoded, DecodingState

EarlyStopping = bool | Literal["never"]
_IMPOSSIBLE = -1.0e9  # score of captions that must not be chosen, as in transformers

# B = remaining images, H = beams, C = 2 * H candidates, V = vocabulary
# T = start and generated tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Captions:
    """Captions per image: beams, candidates, or finished captions."""

    tokens: Int[Tensor, "b h t"]
    lengths: Int[Tensor, "b h"]
    """Number of generated tokens."""
    logprobs: Float[Tensor, "b h"]
    """Sums over the generated tokens, before penalties."""
    scores: Float[Tensor, "b h"]
    ended: Bool[Tensor, "b h"]

    def choose(self, indices: Int[Tensor, "b c"]) -> "_Captions":
        """Select captions of every image."""
        images = torch.arange(len(indices), device=indices.device)[:, None]
        return self.at((images, indices))

    def at(self, places: Any) -> "_Captions":
        """Index images, or images and captions."""
        return _Captions(
            tokens=self.tokens[places],
            lengths=self.lengths[places],
            logprobs=self.logprobs[places],
            scores=self.scores[places],
            ended=self.ended[places],
        )

    def joined_with(self, other: "_Captions") -> "_Captions":
        """Concatenate with further captions of the same images."""
        return _Captions(
            tokens=torch.cat((self.tokens, other.tokens), 1),
            lengths=torch.cat((self.lengths, other.lengths), 1),
            logprobs=torch.cat((self.logprobs, other.logprobs), 1),
            scores=torch.cat((self.scores, other.scores), 1),
            ended=torch.cat((self.ended, other.ended), 1),
        )


class BeamSearch:
    """Beams and finished captions of the remaining images; a `Search`."""

    def __init__(
        self,
        state: DecodingState,
        start: Int[Tensor, "b p"],
        generation: GenerationConfig,
        end_token: int,
        early_stopping: EarlyStopping = False,
    ) -> None:
        """Start a search.

        Args:
            state: The images, before any token.
            start: First tokens of each caption.
            generation: Beams, lengths and penalties.
            end_token: The token that ends a caption.
            early_stopping: False: an image is finished when no beam would beat its worst finished
                caption if it ended now; `never`: if it ended at its best possible length; True: as
                soon as it has as many finished captions as beams.
        """
        self._state = state
        self._generation = generation
        self._end_token = end_token
        self._early_stopping = early_stopping
        self._num_start = start.shape[1]
        self._process = build_process(generation, self._num_start, end_token)
        self._beams = _first_beams(start, generation)
        self._found = replace(self._beams, scores=torch.full_like(self._beams.scores, _IMPOSSIBLE))
        self._rows: Int[Tensor, " n"] | None = None  # to continue from; None: all beams are equal

    def advance(self, step: int) -> None:
        """Append one token to every beam."""
        logprobs = self._logprobs(step)
        candidates, origins = self._candidates(logprobs, step)
        last = step + 1 == self._generation.max_new_tokens
        ends = candidates.ended | last
        self._collect(candidates, ends, step + 1)
        # Captions that have just ended must not continue.
        open_scores = candidates.scores + ends.to(torch.float32) * _IMPOSSIBLE
        chosen = open_scores.topk(self._generation.num_beams)[1]
        self._beams = replace(candidates, scores=open_scores).choose(chosen)
        first = torch.arange(len(chosen), device=chosen.device)[:, None] * chosen.shape[1]
        self._rows = (origins.gather(1, chosen) + first).flatten() if step else None

    def running(self, step: int) -> Bool[Tensor, " b"]:
        """Return which images a further token may improve."""
        generation = self._generation
        exponent = generation.length_penalty
        if step + 1 == generation.max_new_tokens:
            return torch.zeros_like(self._found.ended[:, 0])
        hopes_for_longest = self._early_stopping == "never" and exponent > 0.0
        length = generation.max_new_tokens if hopes_for_longest else step + 1
        best_possible: Tensor = self._beams.scores[:, :1] / length**exponent
        worst = self._found.scores.min(1, keepdim=True)[0]
        worst = torch.where(self._found.ended, worst, _IMPOSSIBLE)
        improvable: Tensor = (best_possible > worst).any(1)
        if self._early_stopping is True:
            improvable = improvable & ~self._found.ended.all(1)
        return improvable

    def keep(self, places: list[int], num_images: int) -> None:
        """Continue with the images at these places and the beams chosen last."""
        if self._rows is None:
            self._state.widen(self._generation.num_beams)
        else:
            self._state.reorder(self._rows)
        if len(places) == num_images:
            return
        kept = torch.tensor(places, device=self._beams.tokens.device)
        self._state.keep(kept)
        self._beams, self._found = self._beams.at(kept), self._found.at(kept)

    def found(self, place: int) -> list[Decoded]:
        """Return the captions of the image at a place, best first."""
        one, best = self._found, slice(self._generation.num_captions)
        rows = zip(
            one.tokens[place, best, self._num_start :].tolist(),
            one.lengths[place, best].tolist(),
            (one.logprobs / one.lengths)[place, best].tolist(),
            one.scores[place, best].tolist(),
            strict=True,
        )
        return [
            Decoded(tokens=tokens[:length], logprob=logprob, score=score)
            for tokens, length, logprob, score in rows
        ]

    def _logprobs(self, step: int) -> Float[Tensor, "n v"]:
        if step:
            position = self._num_start + step - 1
            fed = self._beams.tokens[:, :, position : position + 1].flatten(0, 1)
        else:
            fed = self._beams.tokens[:, 0, : self._num_start]
        return self._state.feed(fed).to(torch.float32).log_softmax(-1)

    def _candidates(
        self, logprobs: Float[Tensor, "n v"], step: int
    ) -> tuple[_Captions, Int[Tensor, "b c"]]:
        """Rank the continuations of every beam.

        Returns:
            The best 2 * H continuations, because up to H of them may end; and the beams that they
            continue.
        """
        num_images, num_beams, _ = self._beams.tokens.shape
        position = self._num_start + step
        read = self._beams.tokens[:, :, :position] if step else self._beams.tokens[:, :1, :position]
        scores = self._process(read.flatten(0, 1), logprobs)
        shape = (num_images, num_beams, logprobs.shape[1])
        # At the first step one row represents all beams.
        scores = scores.view(num_images, -1, shape[2]).expand(shape)
        logprobs = logprobs.view(num_images, -1, shape[2]).expand(shape)
        totals = (scores + self._beams.scores[:, :, None]).flatten(1)
        best, indices = totals.topk(2 * num_beams)
        origins, tokens = indices // shape[2], indices % shape[2]
        candidates = self._beams.choose(origins)
        candidates.tokens[:, :, position] = tokens
        picked = torch.arange(num_images, device=tokens.device)[:, None]
        return _Captions(
            tokens=candidates.tokens,
            lengths=candidates.lengths + 1,
            logprobs=candidates.logprobs + logprobs[picked, origins, tokens],
            scores=best,
            ended=tokens == self._end_token,
        ), origins

    def _collect(self, candidates: _Captions, ends: Bool[Tensor, "b c"], length: int) -> None:
        """Add captions that have just ended to the finished ones, and keep the best."""
        num_beams = self._generation.num_beams
        # Only the best H count: the others exist to continue the search.
        ended = ends.clone()
        ended[:, num_beams:] = False
        scores = candidates.scores / length**self._generation.length_penalty
        scores = scores + (~ended).to(torch.float32) * _IMPOSSIBLE
        fresh = replace(candidates, scores=scores, ended=ended)
        merged = self._found.joined_with(fresh)
        self._found = merged.choose(merged.scores.topk(num_beams)[1])


def _first_beams(start: Int[Tensor, "b p"], generation: GenerationConfig) -> _Captions:
    num_images, num_start = start.shape
    shape = (num_images, generation.num_beams)
    tokens = start.new_zeros((*shape, num_start + generation.max_new_tokens))
    tokens[:, :, :num_start] = start[:, None]
    # Initially only the first beam counts; otherwise all beams would become the same caption.
    scores = torch.zeros(shape, device=start.device)
    scores[:, 1:] = _IMPOSSIBLE
    return _Captions(
        tokens=tokens,
        lengths=start.new_zeros(shape),
        logprobs=torch.zeros_like(scores),
        scores=scores,
        ended=torch.zeros(shape, dtype=torch.bool, device=start.device),
    )
