"""Settings of `raycap study`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.calibrate import CalibrateConfig
from raycap.config.caption import EngineConfig
from raycap.config.evaluation import EvaluateConfig, ReportConfig
from raycap.config.shared import DEFAULT_MODEL, StorageConfig
from raycap.config.train import Kind, TrainConfig

Role = Literal[
    "cnn-lstm", "transformer", "hybrid", "blip-pretrained", "blip-calibrated", "blip-finetuned"
]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class DesignConfig(Section):
    """Which systems are compared."""

    systems: tuple[Role, ...] = (
        "cnn-lstm",
        "transformer",
        "hybrid",
        "blip-pretrained",
        "blip-calibrated",
        "blip-finetuned",
    )
    """The systems, in the order of the table."""
    subsets: tuple[Share, ...] = (0.1, 0.25, 0.5, 1.0)
    """Shares of the training split to train on, each within the larger ones."""
    subsets_without_augmentation: tuple[Share, ...] = (1.0,)
    """Shares to train on without augmentation too."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Systems at a time. None: as many as the cluster holds now."""
    retry_failed: bool = False
    """Run systems again that failed before."""

    @model_validator(mode="after")
    def _no_repeats(self) -> "DesignConfig":
        for name in ("systems", "subsets", "subsets_without_augmentation"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: names one of them twice")
        if not self.systems:
            raise ValueError("systems: is empty")
        if self.systems and not (self.subsets or self.subsets_without_augmentation):
            raise ValueError("subsets: is empty")
        return self


class StudyConfig(Section):
    """All settings of `raycap study`."""

    pretrained: str = DEFAULT_MODEL
    """The BLIP out of the box: a Hub name, a folder, or `demo`."""
    study: DesignConfig = DesignConfig()
    """Which systems are compared."""
    training: TrainConfig = TrainConfig()
    """Settings of training that all trained systems share."""
    kinds: dict[Kind, dict[str, Any]] = Field(default_factory=dict)
    """Settings of training of one kind of model, over those: `{blip: {train: {lr: 1e-5}}}`."""
    calibration: CalibrateConfig = CalibrateConfig()
    """How the length of the pretrained BLIP is calibrated."""
    captioning: EngineConfig = EngineConfig()
    """How the test split is captioned."""
    evaluation: EvaluateConfig = EvaluateConfig()
    """How captions are scored."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""

    @model_validator(mode="after")
    def _decided_once(self) -> "StudyConfig":
        """Refuse settings that the study itself decides, which would have no effect."""
        if self.training.train.subset != 1.0:
            raise ValueError("training.train.subset: say it by study.subsets")
        if not self.training.augment.enabled:
            raise ValueError(
                "training.augment.enabled: say it by study.subsets_without_augmentation"
            )
        for kind, values in self.kinds.items():
            for name in ("engine", "storage"):
                if name in values:
                    raise ValueError(f"kinds.{kind}.{name}: is one for all kinds of model")
        for name in ("training", "calibration", "evaluation", "report"):
            if getattr(self, name).storage != StorageConfig():
                raise ValueError(f"{name}.storage: is one for all; set storage")
        return self
