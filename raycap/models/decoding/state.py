"""What decoding asks of a model, what it finds, and what it does to the model's logits."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    InfNanRemoveLogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from raycap.config import GenerationConfig


@runtime_checkable  # the test run checks annotations with isinstance
class DecodingState(Protocol):
    """One batch of images being captioned, and all that was read of their captions so far.

    Every image has the same number of rows, which stand side by side: one at first, then one a
    beam or a draw. Rows are counted among the images that are left.
    """

    def feed(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        """Read the next tokens of every row (the first time: all that captions start with).

        Returns:
            The logits of the token that follows, in any floating dtype.
        """

    def widen(self, num_rows: int) -> None:
        """Give every image, which has one row now, that many copies of it. Called once at most."""

    def reorder(self, rows: Int[Tensor, " n"]) -> None:
        """Let row i go on from what row `rows[i]`, of the same image, has read."""

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images, with their rows, but these, which take places 0 to k - 1.

        As few as possible change places: `images[i]` is either i, or at least k.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One caption of one image."""

    tokens: list[int]
    """Those generated: without the start, with the end token where it was reached."""
    logprob: float
    """Mean log-probability of them under the model, untouched by penalties and temperature; NaN
    where the model's numbers are."""
    score: float
    """What captions of a beam search are ranked by; without beams the `logprob`."""


@runtime_checkable
class Search(Protocol):
    """How captions are searched for, over the images that are left."""

    def advance(self, step: int) -> None:
        """Write token number `step` of every caption."""

    def running(self, step: int) -> Bool[Tensor, " b"]:
        """Which images go on after token number `step`."""

    def keep(self, places: list[int], num_images: int) -> None:
        """Go on with the images at these places, of so many until now.

        As `DecodingState.keep` says: a place is its own index, or at least `len(places)`.
        """

    def found(self, place: int) -> list[Decoded]:
        """Read the captions of the image at a place."""


def logits_processors(
    generation: GenerationConfig, num_start: int, end_token: int, device: Any
) -> LogitsProcessorList:
    """Build what changes the logits, in the order of transformers' `generate`.

    Args:
        generation: How captions are searched for.
        num_start: Tokens that every caption starts with.
        end_token: Ends a caption.
        device: Where the logits are.
    """
    chosen: list[Any] = []
    if generation.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(generation.repetition_penalty))
    if generation.no_repeat_ngram_size:
        chosen.append(NoRepeatNGramLogitsProcessor(generation.no_repeat_ngram_size))
    if generation.min_new_tokens:
        chosen.append(
            MinNewTokensLengthLogitsProcessor(
                num_start, generation.min_new_tokens, end_token, device
            )
        )
    sampling = generation.sampling
    if sampling.enabled:
        # A draw from NaN is an assertion on the GPU, after which the process is lost. The
        # logprob, from the untouched logits, still says that the image failed.
        chosen.append(InfNanRemoveLogitsProcessor())
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k is not None:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(chosen)
