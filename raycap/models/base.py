"""What every captioner is: pixels in, captions out. Knows no Ray, no storage, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from raycap.images import Target


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model found and identified, not yet loaded: small, picklable, free of torch."""

    kind: str
    """`blip` or `stub`."""
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

    def identity(self) -> dict[str, Any]:
        """What of it goes into a run's fingerprint."""
        return {
            "kind": self.kind,
            "name": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "preprocessing": self.target.describe(),
        }
