"""The generation settings that a model's folder was saved with: `generation` of its `raycap.json`.

A folder that was trained or calibrated captions by them unless the user says otherwise, setting by
setting. Other folders have no such record, and `generation_config.json` is not read: it is for
transformers.
"""

from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ModelError
from raycap.models.base import ModelSource
from raycap.models.folders import KIND_FILE, read_json

GENERATION = "generation"
"""Where `raycap.json` holds the settings."""


def read_generation(folder: Path) -> GenerationConfig | None:
    """Read the settings that a folder was saved with; None where it has no record of any.

    Raises:
        ModelError: the record is not one of settings that raycap knows.
    """
    file = folder / KIND_FILE
    record = read_json(file).get(GENERATION) if file.is_file() else None
    if record is None:
        return None
    try:
        if not isinstance(record, dict):
            raise ConfigError("must be a JSON object")
        return validate_config(GenerationConfig, record)
    except ConfigError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{file}: generation: {reason}; correct it there, or take it out"
        ) from None


def settled_generation(asked: GenerationConfig, source: ModelSource) -> GenerationConfig:
    """Decide the settings to caption by: what was set, then what the model was saved with.

    Args:
        asked: The settings as read; those that were not set count as not asked for.
        source: The model.

    Returns:
        `asked` itself where the model was saved without settings.

    Raises:
        ConfigError: the two contradict each other.
    """
    saved = source.generation
    if saved is None:
        return asked
    set_values = asked.model_dump(exclude_unset=True)
    try:
        return validate_config(
            GenerationConfig, _laid_over(saved.model_dump(exclude_unset=True), set_values)
        )
    except ConfigError as error:
        reason = str(error).partition(", got ")[0].removeprefix("config: ")
        raise ConfigError(
            f"generation: {reason}; what is not set comes from the {KIND_FILE} of {source.name}: "
            "set both"
        ) from None


def _laid_over(values: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over others, section by section."""
    merged = dict(values)
    for name, value in upper.items():
        below = merged.get(name)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[name] = _laid_over(merged[name], value) if both else value
    return merged
