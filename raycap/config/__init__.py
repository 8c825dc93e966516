"""All settings of raycap.

A setting is given in a YAML file (`--config run.yaml`) or on the command line
(`--set engine.batch_size=16`); the command line takes precedence. `None` always means
"decide automatically".
"""

from raycap.config.answers import AnswersConfig
from raycap.config.arguments import renamed, renamed_flags
from raycap.config.base import Section, choose, is_section
from raycap.config.calibrate import CalibrateConfig, LengthSearchConfig
from raycap.config.caption import (
    ActorRange,
    CaptionConfig,
    CascadeConfig,
    EngineConfig,
    FittedImageConfig,
    PreflightConfig,
)
from raycap.config.choices import (
    AnnotationFormatName,
    EditsMode,
    Existing,
    ExportFormat,
    Gone,
    HubImages,
    Layout,
    MissingPolicy,
    Naming,
    SameStem,
    Shards,
)
from raycap.config.dataset import (
    EmbedConfig,
    Lines,
    PrepareConfig,
    PrepareEngineConfig,
    SidecarConfig,
    SplitConfig,
)
from raycap.config.endpoint import EndpointConfig
from raycap.config.evaluation import (
    BootstrapConfig,
    EvaluateConfig,
    ExternalMetricsConfig,
    ReportConfig,
)
from raycap.config.prompts import PromptConfig
from raycap.config.review import ReviewConfig
from raycap.config.shared import (
    DEFAULT_MODEL,
    GenerationConfig,
    ImageConfig,
    ModelConfig,
    SamplingConfig,
    StorageConfig,
)
from raycap.config.source import ContextOrigin, MissingContext, SourceConfig
from raycap.config.study import DesignConfig, StudyConfig
from raycap.config.text import Replacement, TextConfig
from raycap.config.train import (
    ArchitectureConfig,
    AugmentConfig,
    BlipTuningConfig,
    LoopConfig,
    ModelKind,
    OptimizerConfig,
    TrainConfig,
    TrainEngineConfig,
    ValidationConfig,
)
from raycap.config.tune import SearchConfig, TuneConfig

__all__ = [
    "DEFAULT_MODEL",
    "ActorRange",
    "AnnotationFormatName",
    "AnswersConfig",
    "ArchitectureConfig",
    "AugmentConfig",
    "BlipTuningConfig",
    "BootstrapConfig",
    "CalibrateConfig",
    "CaptionConfig",
    "CascadeConfig",
    "ContextOrigin",
    "DesignConfig",
    "EditsMode",
    "EmbedConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluateConfig",
    "Existing",
    "ExportFormat",
    "ExternalMetricsConfig",
    "FittedImageConfig",
    "GenerationConfig",
    "Gone",
    "HubImages",
    "ImageConfig",
    "Layout",
    "LengthSearchConfig",
    "Lines",
    "LoopConfig",
    "MissingContext",
    "MissingPolicy",
    "ModelConfig",
    "ModelKind",
    "Naming",
    "OptimizerConfig",
    "PreflightConfig",
    "PrepareConfig",
    "PrepareEngineConfig",
    "PromptConfig",
    "Replacement",
    "ReportConfig",
    "ReviewConfig",
    "SameStem",
    "SamplingConfig",
    "SearchConfig",
    "Section",
    "Shards",
    "SidecarConfig",
    "SourceConfig",
    "SplitConfig",
    "StorageConfig",
    "StudyConfig",
    "TextConfig",
    "TrainConfig",
    "TrainEngineConfig",
    "TuneConfig",
    "ValidationConfig",
    "choose",
    "is_section",
    "renamed",
    "renamed_flags",
]
