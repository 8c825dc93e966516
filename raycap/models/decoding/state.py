"""The interfaces of decoding: state of a model, search, decoded caption; and logits processors."""

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


@runtime_checkable  # the type checks of the test run use isinstance
class DecodingState(Protocol):
    """The state of a model for a batch of images and the tokens read so far.

    Every image has the same number of adjacent rows: one at first, then one per beam or sample.
    Row numbers count the remaining images only.
    """

    def feed(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        """Read the next tokens of every row; the first call reads the start of all captions.

        Returns:
            The logits of the next token, in any floating-point dtype.
        """

    def widen(self, num_rows: int) -> None:
        """Replace the row of every image by that many copies. Called at most once."""

    def reorder(self, rows: Int[Tensor, " n"]) -> None:
        """Continue row i from the tokens that row `rows[i]`, of the same image, has read."""

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images and their rows except these, which take places 0 to k - 1.

        As few as possible move: `images[i]` is either i, or at least k.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One caption of one image."""

    tokens: list[int]
    """The generated tokens: without the start, with the end token if there is one."""
    logprob: float
    """Their mean log-probability under the model, before penalties and temperature; NaN if the
    logits are."""
    score: float
    """Rank of captions of a beam search; without beams the `logprob`."""


@runtime_checkable  # the type checks of the test run use isinstance
class Search(Protocol):
    """A search for captions of the remaining images."""

    def advance(self, step: int) -> None:
        """Append token number `step` to every caption."""

    def running(self, step: int) -> Bool[Tensor, " b"]:
        """Return which images continue after token number `step`."""

    def keep(self, places: list[int], num_images: int) -> None:
        """Continue with the images at these places, out of `num_images`.

        As in `DecodingState.keep`: a place equals its own index, or is at least `len(places)`.
        """

    def found(self, place: int) -> list[Decoded]:
        """Return the captions of the image at a place."""


def logits_processors(
    generation: GenerationConfig, num_start: int, end_token: int, device: Any
) -> LogitsProcessorList:
    """Build the logits processors, in the order of transformers' `generate`.

    Args:
        generation: How captions are generated.
        num_start: Number of tokens that every caption starts with.
        end_token: The token that ends a caption.
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
        # Sampling from NaN triggers an assertion on the GPU, which makes the process unusable. The
        # logprob, from the unmodified logits, still shows that the image failed.
        chosen.append(InfNanRemoveLogitsProcessor())
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k is not None:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(chosen)


def search_settings(generation: GenerationConfig) -> dict[str, Any]:
    """Return the settings of a search as transformers' `generate` names them."""
    settings: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens or None,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": generation.sampling.enabled,
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if generation.sampling.enabled:
        settings |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
            # Sampling from NaN triggers an assertion on the GPU, which makes the process unusable.
            # The logprob, from the unmodified logits, still shows that the image failed.
            "remove_invalid_values": True,
        }
    return settings
