"""Settings of `raycap calibrate`."""

from typing import Annotated

from pydantic import Field

from raycap.config.base import Section
from raycap.config.caption import EngineConfig
from raycap.config.shared import GenerationConfig, ImageConfig, ModelConfig, StorageConfig


class LengthSearchConfig(Section):
    """Settings of `generation` that calibration tries."""

    num_min_lengths: int = Field(default=5, ge=1, le=50)
    """Number of values of `generation.min_new_tokens` to try: 0, and values between the length of
    the captions and the length of the references."""
    max_length_ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(1.5, 1.2), min_length=1
    )
    """Values of `generation.max_new_tokens` to try, as multiples of the mean reference length."""
    length_penalties: tuple[float, ...] = Field(default=(0.0, 1.0, 2.0), min_length=1)
    """Values of `generation.length_penalty` to try; ignored with one beam."""
    ngram_sizes: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 3), min_length=1)
    """Values of `generation.no_repeat_ngram_size` to try."""


class CalibrateConfig(Section):
    """All settings of `raycap calibrate`."""

    split: str = "validation"
    """Split to try the settings on; do not use the one that results are reported on."""
    num_images: int = Field(default=500, ge=2, le=20_000)
    """Images of the split to use: the same ones for all settings, kept in the cluster's memory."""
    max_cider_loss: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the starting CIDEr-D that the chosen setting may lose."""
    closed_gap: float = Field(default=1.0, ge=0.0)
    """A length gap up to this many tokens counts as closed. Of the settings that close the gap, the
    one with the best CIDEr-D is chosen."""
    search: LengthSearchConfig = LengthSearchConfig()
    """The settings to try."""
    model: ModelConfig = ModelConfig()
    """The model."""
    generation: GenerationConfig = GenerationConfig()
    """The settings to start from, with which the others are compared. Settings that you leave out
    are taken from the model."""
    engine: EngineConfig = EngineConfig()
    """How the work is distributed."""
    image: ImageConfig = ImageConfig()
    """Limits on image files."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""
