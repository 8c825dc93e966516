"""Settings of `raycap evaluate` and `raycap report`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from raycap.config.base import Section
from raycap.config.shared import ImageConfig, StorageConfig


class BootstrapConfig(Section):
    """Confidence intervals by resampling the images."""

    num_resamples: int = Field(default=1000, ge=0, le=100_000)
    """Resamples; 0: no intervals and no tests."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """What the intervals cover."""
    seed: int = Field(default=0, ge=0)
    """Fixes the resamples."""


class ExternalMetricsConfig(Section):
    """Metrics that need more than raycap itself; each is told as skipped where it cannot run."""

    meteor: bool = True
    """METEOR 1.5, with the extra raycap[java]."""
    spice_jars: Path | None = None
    """Folder of Stanford CoreNLP 3.6 jars, which SPICE needs and no registry ships."""
    clip_model: str | None = None
    """A CLIP of Hugging Face, by Hub name or folder: adds CLIPScore, which reads the images."""


class EvaluateConfig(Section):
    """All settings of `raycap evaluate`."""

    tokenizer: Literal["raycap", "ptb"] = "raycap"
    """`raycap`: our own, PTB-like; `ptb`: Stanford's itself, with the extra raycap[java]."""
    bootstrap: BootstrapConfig = BootstrapConfig()
    """Confidence intervals and tests."""
    external: ExternalMetricsConfig = ExternalMetricsConfig()
    """METEOR, SPICE and CLIPScore."""
    spread_images: int = Field(default=50_000, ge=0)
    """Images times systems from which on Ray spreads the work; fewer are scored in one process."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""


class ReportConfig(Section):
    """All settings of `raycap report`."""

    num_examples: int = Field(default=200, ge=0, le=5000)
    """Images in the gallery, the best, the worst, random and failed ones among them."""
    thumbnail_px: int = Field(default=320, ge=32, le=2048)
    """Longer side of a picture in the page."""
    seed: int = Field(default=0, ge=0)
    """Fixes which images are shown as random ones."""
    image: ImageConfig = ImageConfig()
    """What is accepted as an image."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""
