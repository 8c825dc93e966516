"""The systems of a study: their names, their settings, and their files in the output."""

from typing import Any

from raycap.config import (
    CalibrateConfig,
    CaptionConfig,
    FittedImageConfig,
    ModelConfig,
    SourceConfig,
    StudyConfig,
    TrainConfig,
)
from raycap.config.loading import validate_config
from raycap.datasets.splits import TEST
from raycap.errors import ConfigError
from raycap.experiments.journal import Experiment
from raycap.results.study import SystemRecord

PRETRAINED = "blip-pretrained"
CALIBRATED = "blip-calibrated"
FINETUNED = "blip-finetuned"
EVALUATION = "evaluation"
GROWTH = "growth"
SYSTEMS: Experiment[SystemRecord] = Experiment(
    folder="systems/", record="system.json", form=SystemRecord
)
_SPLIT = TEST


def plan_systems(config: StudyConfig) -> list[SystemRecord]:
    """Return the systems: main systems first, in the order of the settings."""
    found = []
    for role in config.study.systems:
        if role in (PRETRAINED, CALIBRATED):
            found.append(SystemRecord(name=role, role=role, is_augmented=False, is_main=True))
        else:
            found += _trained(role, config)
    return sorted(found, key=lambda system: not system.is_main)


def train_config(system: SystemRecord, config: StudyConfig) -> TrainConfig:
    """Return the settings that a system is trained with.

    Raises:
        ConfigError: a setting of its kind is wrong.
    """
    kind = "blip" if system.role == FINETUNED else system.role
    values = config.training.model_dump()
    own = config.kinds.get(kind, {})  # type: ignore[call-overload]
    _lay(values, own)
    values["kind"] = kind
    values["storage"] = config.storage.model_dump()
    values["train"]["subset"] = system.subset
    values["train"]["keep_checkpoint"] = False
    values["augment"]["enabled"] = system.is_augmented
    if kind == "blip":
        values["init"] = own.get("init", config.pretrained)
    try:
        return validate_config(TrainConfig, values)
    except ConfigError as error:
        raise ConfigError(f"training of {system.name}: {error}", setting=error.setting) from None


def calibrate_config(config: StudyConfig) -> CalibrateConfig:
    """Return the settings that the pretrained BLIP is calibrated with."""
    return config.calibration.model_copy(update={"storage": config.storage})


def caption_config(model: str, config: StudyConfig) -> CaptionConfig:
    """Return the settings for captioning the test split, with the model's own search settings."""
    return CaptionConfig(
        model=ModelConfig(name=model),
        engine=config.captioning,
        image=FittedImageConfig(**config.training.image.model_dump()),
        storage=config.storage,
        source=SourceConfig(split=_SPLIT),
    )


def _trained(role: str, config: StudyConfig) -> list[SystemRecord]:
    design = config.study
    settings = [(share, True) for share in design.subsets]
    settings += [(share, False) for share in design.subsets_without_augmentation]
    # The most images; of equal shares, with augmentation.
    main = max(settings, key=lambda setting: (setting[0], setting[1]))
    return [
        SystemRecord(
            name=_name(role, share, is_augmented=is_augmented),
            role=role,
            subset=share,
            is_augmented=is_augmented,
            is_main=(share, is_augmented) == main,
        )
        for share, is_augmented in sorted(settings, reverse=True)
    ]


def _name(role: str, share: float, *, is_augmented: bool) -> str:
    size = "" if share == 1.0 else f"-{share * 100:g}"
    return f"{role}{size}{'' if is_augmented else '-plain'}"


def _lay(values: dict[str, Any], over: dict[str, Any]) -> None:
    """Update nested settings in place."""
    for name, value in over.items():
        inner = values.get(name)
        if isinstance(value, dict) and isinstance(inner, dict):
            _lay(inner, value)
        else:
            values[name] = value
