"""Settings of `raycap prepare`."""

from typing import Literal

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.choices import EditsMode
from raycap.config.shared import ImageConfig, StorageConfig


class SplitConfig(Section):
    """Shares of the splits, for images whose split the source does not name.

    If the source names the split of some images only, the others are split by a hash of their id.
    """

    validation: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the images for choosing between models."""
    test: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the images for the final comparison; the rest is for training."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split; with the same seed, an image has the same split in every subset."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if self.validation + self.test > 1.0:
            raise ValueError("validation and test together must not exceed 1")
        return self


Lines = Literal["all", "first"]


class SidecarConfig(Section):
    """Caption files beside images, or in tars."""

    lines: Lines = "all"
    """Which lines of a `.txt` file are captions: `all`, or only the `first`, if the others are
    translations or notes."""


class EmbedConfig(Section):
    """How images are stored in the dataset."""

    enabled: bool = True
    """Store the image files in the dataset; false: store only their addresses."""
    max_side_px: int | None = Field(default=None, ge=16, le=65_500)
    """Shrink images so that their shorter side is at most this, and store them as JPEG.
    None: store the files unchanged."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of shrunk images."""


class PrepareEngineConfig(Section):
    """How the work is divided."""

    part_size: int = Field(default=1024, ge=1, le=1_000_000)
    """Images per part; a part is written as a whole."""
    fetch_threads: int = Field(default=16, ge=1, le=256)
    """Images that one task fetches and decodes in parallel."""
    memory_bytes: int = Field(default=1_000_000_000, ge=100_000_000)
    """Memory for sorting and grouping the annotations; more data goes to disk."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """Stop after this many seconds without progress."""


class PrepareConfig(Section):
    """All settings of `raycap prepare`."""

    subset: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the images to use: always the same images, and part of every larger share."""
    split: SplitConfig = SplitConfig()
    """Shares of training, validation and test."""
    sidecar: SidecarConfig = SidecarConfig()
    """Caption files beside images, or in tars."""
    embed: EmbedConfig = EmbedConfig()
    """How images are stored in the dataset."""
    edits: EditsMode = EditsMode.APPLY
    """If the source is an output of `raycap caption`: `apply` takes captions as people left them,
    without those that they rejected, `ignore` those of the run, `only` those that people have
    written or approved."""
    prompt: str | None = None
    """If the source is an output of `raycap caption`: the named prompt whose answers to take as
    captions. None: the first, if its run has any."""
    image: ImageConfig = ImageConfig()
    """Limits on image files."""
    engine: PrepareEngineConfig = PrepareEngineConfig()
    """How the work is distributed."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""
