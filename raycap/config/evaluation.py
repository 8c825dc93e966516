"""Settings of `raycap evaluate` and `raycap report`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from raycap.config.base import Section
from raycap.config.choices import EditsMode
from raycap.config.shared import ImageConfig, StorageConfig


class BootstrapConfig(Section):
    """Confidence intervals by resampling the images."""

    num_resamples: int = Field(default=1000, ge=0, le=100_000)
    """Resamples; 0: no intervals and no tests."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """Confidence level of the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""


class ExternalMetricsConfig(Section):
    """Metrics that need extra software; one that cannot run is reported as skipped."""

    meteor: bool = True
    """METEOR 1.5; needs the extra raycap[java]."""
    spice_jars: Path | None = None
    """Folder with the jars of Stanford CoreNLP 3.6, which SPICE needs; no package contains them."""
    clip_model: str | None = None
    """A CLIP model of Hugging Face, by Hub name or folder: adds CLIPScore, which reads the
    images."""


class EvaluateConfig(Section):
    """All settings of `raycap evaluate`."""

    tokenizer: Literal["raycap", "ptb"] = "raycap"
    """`raycap`: raycap's own tokenizer, similar to PTB; `ptb`: Stanford's PTB tokenizer, which
    needs the extra raycap[java]."""
    bootstrap: BootstrapConfig = BootstrapConfig()
    """Confidence intervals and tests."""
    external: ExternalMetricsConfig = ExternalMetricsConfig()
    """METEOR, SPICE and CLIPScore."""
    spread_images: int = Field(default=50_000, ge=0)
    """From this number of captions (images times systems) on, Ray distributes the scoring; below
    it, one process does all."""
    edits: EditsMode = EditsMode.APPLY
    """Corrections of people in outputs of `raycap caption`: `apply` scores captions as people left
    them, `ignore` those of the run, `only` those that people have written or approved."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""


class ReportConfig(Section):
    """All settings of `raycap report`."""

    num_examples: int = Field(default=200, ge=0, le=5000)
    """Images in the gallery, including the best, the worst, random and failed ones."""
    thumbnail_px: int = Field(default=320, ge=32, le=2048)
    """Longer side of the pictures on the page, in pixels."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random images shown."""
    prompt: str | None = None
    """Named prompt whose answers a caption output shows as captions. None: the first, if its run
    has any."""
    edits: EditsMode = EditsMode.APPLY
    """Corrections of people in a caption output: `apply` shows captions as people left them,
    `ignore` those of the run, `only` those that people have written or approved."""
    image: ImageConfig = ImageConfig()
    """Limits on image files."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""
