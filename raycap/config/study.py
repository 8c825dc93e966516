"""Settings of `raycap study`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.calibrate import CalibrateConfig
from raycap.config.caption import EngineConfig
from raycap.config.evaluation import EvaluateConfig, ReportConfig
from raycap.config.shared import DEFAULT_MODEL, StorageConfig
from raycap.config.train import ModelKind, TrainConfig

Role = Literal[
    "cnn-lstm", "transformer", "hybrid", "blip-pretrained", "blip-calibrated", "blip-finetuned"
]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class DesignConfig(Section):
    """The systems to compare."""

    systems: tuple[Role, ...] = (
        "cnn-lstm",
        "transformer",
        "hybrid",
        "blip-pretrained",
        "blip-calibrated",
        "blip-finetuned",
    )
    """Systems, in the order of the table."""
    subsets: tuple[Share, ...] = (0.1, 0.25, 0.5, 1.0)
    """Shares of the training split to train on; each is part of the larger ones."""
    subsets_without_augmentation: tuple[Share, ...] = (1.0,)
    """Shares on which models are also trained without augmentation."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Maximum number of systems at a time. None: as many as fit into the cluster."""
    retry_failed: bool = False
    """Retry systems that failed before."""

    @model_validator(mode="after")
    def _no_repeats(self) -> "DesignConfig":
        for name in ("systems", "subsets", "subsets_without_augmentation"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: contains a value twice")
        if not self.systems:
            raise ValueError("systems: is empty")
        if self.systems and not (self.subsets or self.subsets_without_augmentation):
            raise ValueError("subsets: is empty")
        return self


class StudyConfig(Section):
    """All settings of `raycap study`."""

    pretrained: str = DEFAULT_MODEL
    """The pretrained BLIP: a Hub name, a folder, or `demo`."""
    study: DesignConfig = DesignConfig()
    """The systems to compare."""
    training: TrainConfig = TrainConfig()
    """Training settings of all trained systems."""
    kinds: dict[ModelKind, dict[str, Any]] = Field(default_factory=dict)
    """Training settings per kind of model, which override those of `training`:
    `{blip: {train: {lr: 1e-5}}}`."""
    calibration: CalibrateConfig = CalibrateConfig()
    """How the length of the pretrained BLIP is calibrated."""
    captioning: EngineConfig = EngineConfig()
    """How the test split is captioned."""
    evaluation: EvaluateConfig = EvaluateConfig()
    """How captions are scored."""
    report: ReportConfig = ReportConfig()
    """Settings of the report."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""

    @model_validator(mode="after")
    def _decided_once(self) -> "StudyConfig":
        """Refuse settings that the study decides itself, and that would have no effect."""
        if self.training.train.subset != 1.0:
            raise ValueError("training.train.subset: set study.subsets instead")
        if not self.training.augment.enabled:
            raise ValueError(
                "training.augment.enabled: set study.subsets_without_augmentation instead"
            )
        for kind, values in self.kinds.items():
            for name in ("engine", "storage"):
                if name in values:
                    raise ValueError(f"kinds.{kind}.{name}: must be the same for all kinds")
        for name in ("training", "calibration", "evaluation", "report"):
            if getattr(self, name).storage != StorageConfig():
                raise ValueError(f"{name}.storage: set storage instead, which applies to all")
        return self
