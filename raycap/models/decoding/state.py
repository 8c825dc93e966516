"""The interfaces of decoding: state of a model, search, decoded caption."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


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
