"""Find, check and identify the model that a user named, without loading it. Imports no torch.

A name is, in this order: `stub`, `demo`, a local folder, a Hub name or `name@revision`.

A folder that was trained or calibrated also holds generation settings (`generation` in its
`raycap.json`). They apply to every setting that the user has not set. `generation_config.json` is
not read: it is for transformers.
"""

import os
import re
from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig, ModelConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ModelError
from raycap.models.base import ModelSource
from raycap.models.folders import (
    CONFIG_FILE,
    KIND_FILE,
    PICKLE_PATTERNS,
    WEIGHT_FILE,
    check_safe,
    digest_folder,
    read_json,
)
from raycap.models.hub import download
from raycap.models.kinds import KINDS, find_kind, kind_of_folder
from raycap.runs.records import RUN
from raycap.storage.address import redact

DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
"""The small trained captioner that ships with raycap."""

MODEL = "model"
"""Folder of the model in the output of a training run or search."""

GENERATION = "generation"
"""Key of the generation settings in `raycap.json`."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@\S+)?")


def find_model(name: str) -> ModelSource:
    """Find a model by name, download it from the Hub if necessary, check it and identify it.

    Args:
        name: `stub`, `demo`, a local folder, a Hub name, or a Hub `name@revision`. A name that
            starts with `.`, `/` or `~`, or exists as a path, is a path.

    Raises:
        ConfigError: there is no such folder.
        ModelError: it does not exist, or is not a model that raycap can caption with.
    """
    for kind in KINDS:
        if name == kind.name and not kind.has_files:
            return kind.built_in(name)
    if name == "demo":
        return _from_folder(DEMO_FOLDER, name, None)
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
    if name.startswith((".", "/", "~")) or (name and path.exists()):
        _check_path(path, name)
        return _from_folder(path.resolve(), name, None)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"{redact(name)!r}: not a model: give a local folder, a Hub name (or name@revision), "
            "demo or stub"
        )
    repository, _, revision = name.partition("@")
    folder = download(repository, revision or None)
    # The cache names a snapshot after its commit, which pins the content of a branch or tag.
    return _from_folder(folder, repository, folder.name)


def _check_path(path: Path, name: str) -> None:
    """Refuse a path that is no folder, or the output of a run, which holds its model inside.

    The `config.json` of such an output is that of the run, and says nothing about a model.

    Raises:
        ConfigError: there is nothing at the path.
        ModelError: it is not the folder of a model.
    """
    if path.is_file() and any(path.match(pattern) for pattern in PICKLE_PATTERNS):
        raise ModelError(
            f"{name}: a pickled checkpoint, which can run code when loaded and is refused: "
            f"give a folder with {WEIGHT_FILE}",
            uri=name,
        )
    if not path.exists():
        raise ConfigError(f"{name}: no such folder: give the folder of a saved model", uri=name)
    if not path.is_dir():
        raise ModelError(f"{name}: is a file: give the folder of a saved model", uri=name)
    if (path / RUN).is_file() and not (path / WEIGHT_FILE).exists():
        has_model = (path / MODEL / CONFIG_FILE).is_file()
        inside = f"did you mean {name.rstrip('/')}/{MODEL}?" if has_model else "it has no model yet"
        raise ModelError(f"{name}: is the output of a run, not a model: {inside}", uri=name)


def check_arithmetic(source: ModelSource, model: ModelConfig) -> None:
    """Check that the kind of the model supports `model.compile` and `model.precision`.

    Raises:
        ModelError: it does not.
    """
    kind = find_kind(source.kind)
    if model.compile and not kind.compiles:
        able = ", ".join(one.name for one in KINDS if one.compiles)
        raise ModelError(
            f"model.compile=true supports models of kind {able}; {source.name} is of kind "
            f"{kind.name}: leave it off",
            setting="model.compile",
        )
    if model.precision == "int8" and not kind.has_int8:
        able = ", ".join(one.name for one in KINDS if one.has_int8)
        raise ModelError(
            f"model.precision=int8 supports models of kind {able}; {source.name} is of kind "
            f"{kind.name}: set model.precision=auto",
            setting="model.precision",
        )


def settled_generation(asked: GenerationConfig, source: ModelSource) -> GenerationConfig:
    """Combine the generation settings of the user with those saved with the model.

    Args:
        asked: The settings as read. Only the ones that were set override the saved ones.
        source: The model.

    Returns:
        `asked` itself if the model has no saved settings.

    Raises:
        ConfigError: the two contradict each other.
    """
    saved = source.generation
    if saved is None:
        return asked
    set_values = asked.model_dump(exclude_unset=True)
    try:
        return validate_config(
            GenerationConfig, _merged(saved.model_dump(exclude_unset=True), set_values)
        )
    except ConfigError as error:
        reason = str(error).partition(", got ")[0].removeprefix("config: ")
        raise ConfigError(
            f"generation: {reason}; settings that are not set come from the {KIND_FILE} of "
            f"{source.name}: set both",
            setting="generation",
        ) from None


def read_generation(folder: Path) -> GenerationConfig | None:
    """Read the generation settings saved with a model; None if there are none.

    Raises:
        ModelError: they are not valid settings.
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
            f"{file}: generation: {reason}; correct it there, or remove it", uri=str(file)
        ) from None


def _from_folder(folder: Path, name: str, revision: str | None) -> ModelSource:
    kind = kind_of_folder(folder)
    if not kind.has_files:
        return kind.built_in(name)
    target = kind.check(folder)
    check_safe(folder)
    return ModelSource(
        kind=kind.name,
        name=name,
        revision=revision,
        folder=str(folder),
        digest=digest_folder(folder, kind.extra_files),
        target=target,
        generation=read_generation(folder),
    )


def _merged(values: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Override settings by others, section by section."""
    merged = dict(values)
    for name, value in upper.items():
        below = merged.get(name)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
