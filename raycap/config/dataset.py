"""Settings of `raycap prepare`."""

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.shared import ImageConfig, StorageConfig


class SplitConfig(Section):
    """Which share of the images becomes which split, where the source does not say itself.

    A source that names splits for some images only: the others are split by hash.
    """

    validation: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the images for choosing among models."""
    test: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the images for the final comparison; what is left is for training."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another split; the same seed splits every subset alike."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if self.validation + self.test > 1.0:
            raise ValueError("validation and test together must not exceed 1")
        return self


class EmbedConfig(Section):
    """How the images come into the dataset."""

    enabled: bool = True
    """Store the image files in the dataset; false: only their addresses."""
    max_side_px: int | None = Field(default=None, ge=16, le=65_500)
    """Shrink images so that their shorter side is at most this, and store them as JPEG.
    None: store the files as they are."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of shrunk images."""


class PrepareEngineConfig(Section):
    """How the work is cut up."""

    part_size: int = Field(default=1024, ge=1, le=1_000_000)
    """Images a part: what is written at once."""
    fetch_threads: int = Field(default=16, ge=1, le=256)
    """Images that one task fetches and decodes at a time."""
    memory_bytes: int = Field(default=1_000_000_000, ge=100_000_000)
    """Most that sorting and grouping the annotations may hold; what is beyond goes to disk."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """Stop when nothing moved for so long."""


class PrepareConfig(Section):
    """All settings of `raycap prepare`."""

    subset: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the images to take: the same every time, and part of every larger share."""
    split: SplitConfig = SplitConfig()
    """Which images are for training, validation and test."""
    embed: EmbedConfig = EmbedConfig()
    """How the images come into the dataset."""
    image: ImageConfig = ImageConfig()
    """What is accepted as an image."""
    engine: PrepareEngineConfig = PrepareEngineConfig()
    """How the work is spread."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""
