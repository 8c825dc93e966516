"""What every captioner is: pixels in, captions out. Knows no Ray, no storage, no torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from raycap.config import GenerationConfig
from raycap.images.decoding import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What a model says of one image."""

    text: str
    """The caption, without special tokens; with the prompt where there is one."""
    logprob: float
    """Mean log-probability (natural logarithm) of the generated tokens under the model, the
    end token counted, the prompt not. Not touched by penalties, temperature or beams."""
    alternatives: "tuple[Caption, ...]" = ()
    """The other captions, where the settings ask for several."""


@runtime_checkable  # the test run checks annotations with isinstance
class Captioner(Protocol):
    """A model that captions."""

    @property
    def target(self) -> Target:
        """The pixels it wants."""

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch, one result an image, in order.

        A caption depends on its own image alone, not on the batch around it.
        """

    def save(self, folder: Path) -> None:
        """Write a folder from which the same captioner can be loaded."""


@runtime_checkable
class AdjustableCaptioner(Captioner, Protocol):
    """A captioner whose settings can be varied: what calibration needs."""

    def with_generation(self, generation: GenerationConfig) -> Captioner:
        """Caption by other settings, with the same weights.

        Raises:
            ModelError: the model cannot write captions of that length.
        """

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count as `generation.max_new_tokens` does, the end token left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attended:
    """Where a model looked in an image while it wrote each piece of a caption."""

    texts: list[str]
    """The pieces in order: tokens, or whole words."""
    weights: Float[np.ndarray, "t gh gw"]
    """For each piece a weight for each cell of a grid laid over the image; they sum to 1."""


@runtime_checkable
class AttentiveCaptioner(Captioner, Protocol):
    """A captioner that can tell where it looks."""

    def attend(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Attended]:
        """Tell where was looked for each token of the best caption, as `caption` finds it.

        The end token, which is no text, is left out.
        """

    def attend_words(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Attended]:
        """Tell where was looked for each word: the mean over its tokens. What overlays show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model found and identified, not yet loaded: small, picklable, free of torch."""

    kind: str
    """`blip`, `cnn-lstm`, `transformer`, `hybrid`, `vlm` or `stub`."""
    name: str
    """As the user named it, without the revision."""
    revision: str | None
    """Commit of a Hub model; None for a folder or a built-in."""
    folder: str | None
    """Local folder of config, weights and tokenizer; None for `stub`."""
    digest: str
    """SHA-256 over weights, tokenizer, architecture and preprocessing, in hex: two models with
    the same digest caption alike."""
    target: Target
    """The pixels it wants."""
    generation: GenerationConfig | None = None
    """The settings it was saved with; None where it was saved without."""

    def identity(self) -> dict[str, Any]:
        """What of it goes into a run's fingerprint."""
        return {
            "kind": self.kind,
            "name": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "preprocessing": self.target.describe(),
        }


def image_seed(pixels: UInt8[np.ndarray, "h w 3"], seed: int) -> int:
    """Make the seed of an image's draws from its pixels and the seed of the settings."""
    digest = hashlib.sha256(f"{seed}:".encode() + pixels.tobytes()).digest()
    return int.from_bytes(digest[:7])
