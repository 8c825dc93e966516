"""Settings of `raycap calibrate`."""

from typing import Annotated

from pydantic import Field

from raycap.config.base import Section
from raycap.config.caption import EngineConfig
from raycap.config.shared import GenerationConfig, ImageConfig, ModelConfig, StorageConfig


class LengthSearchConfig(Section):
    """Which settings of `generation` calibration tries."""

    num_min_lengths: int = Field(default=5, ge=1, le=50)
    """Values of `generation.min_new_tokens` to try: 0, and those between the length of the
    captions and that of the references."""
    max_length_ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(1.5, 1.2), min_length=1
    )
    """Values of `generation.max_new_tokens` to try, in mean lengths of the references."""
    length_penalties: tuple[float, ...] = Field(default=(0.0, 1.0, 2.0), min_length=1)
    """Values of `generation.length_penalty` to try; with one beam there is nothing to try."""
    ngram_sizes: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 3), min_length=1)
    """Values of `generation.no_repeat_ngram_size` to try."""


class CalibrateConfig(Section):
    """All settings of `raycap calibrate`."""

    split: str = "validation"
    """The split that settings are tried on; never the one that results are told of."""
    num_images: int = Field(default=500, ge=2, le=20_000)
    """Images of it: the same ones for every setting, all of them in the cluster's memory."""
    max_cider_loss: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the CIDEr-D of `generation` that a setting may lose to be chosen."""
    closed_gap: float = Field(default=1.0, ge=0.0)
    """A length gap of so many tokens counts as closed: of such settings the one of the best
    CIDEr-D is chosen."""
    search: LengthSearchConfig = LengthSearchConfig()
    """Which settings are tried."""
    model: ModelConfig = ModelConfig()
    """Which model."""
    generation: GenerationConfig = GenerationConfig()
    """The settings to start from, which the others are compared with. What is not set is as the
    model was saved with."""
    engine: EngineConfig = EngineConfig()
    """How the work is spread."""
    image: ImageConfig = ImageConfig()
    """What is accepted as an image."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""
