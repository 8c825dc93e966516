"""Find, check and identify the model that a user named, without loading it. Imports no torch.

A name is, in this order: `stub`, `demo`, a local folder, a class of the user's own
(`package.module:Class`, or the name of an entry point), a Hub name or `name@revision`.

A folder that was trained or calibrated also holds generation settings (`generation` in its
`raycap.json`). They apply to every setting that the user has not set. `generation_config.json` is
not read: it is for transformers.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig, ModelConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ModelError
from raycap.models.adapters import check_peft, find_adapter, is_adapter, read_adapter
from raycap.models.base import AdapterSource, ModelSource
from raycap.models.custom import find_custom
from raycap.models.folders import (
    CONFIG_FILE,
    KIND_FILE,
    check_safe,
    digest_folder,
    find_files,
    local_folder,
    read_json,
)
from raycap.models.kinds import KINDS, find_kind, kind_of_folder
from raycap.storage.address import redact

logger = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
"""The small trained captioner that ships with raycap."""

ENDPOINT = "endpoint"
"""Name of the kind, and value of `model.backend`, of models at servers."""

GENERATION = "generation"
"""Key of the generation settings in `raycap.json`."""

_DEMO = "demo"
_SHIPPED = (_DEMO, *(kind.name for kind in KINDS if kind.is_built_in))
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@\S+)?")


def find_model(name: str, adapter: str | None = None, backend: str = "torch") -> ModelSource:
    """Find a model by name, download it from the Hub if necessary, check it and identify it.

    Args:
        name: `stub`, `demo`, a local folder, a Hub name, or a Hub `name@revision`. A name that
            starts with `.`, `/` or `~`, or exists as a path, is a path. If it is a LoRA adapter,
            the model is the one that the adapter names.
        adapter: A LoRA adapter to merge into the model, named likewise.
        backend: As `model.backend`; for `endpoint`, the name is that of the model at a server, and
            only the settings are checked: see `check_endpoint`.

    Raises:
        ConfigError: there is no such folder, or adapters need an extra that is not installed.
        ModelError: it does not exist, or is not a model that raycap can caption with.
    """
    if backend == ENDPOINT:
        return find_kind(ENDPOINT).built_in(name)
    if adapter is None:
        return _find(name)
    found = _find(name)
    if found.adapter is not None:
        raise ModelError(
            f"{name}: is an adapter itself: give the model in its place, or leave out "
            "model.adapter",
            setting="model.adapter",
        )
    return _adapted(found, find_adapter(adapter))


def find_asked(model: ModelConfig) -> ModelSource:
    """Find the model of some settings, as `find_model` does; it may be a class of the user's own.

    Raises:
        ConfigError: as `find_model`.
        ModelError: as `find_model`; or the class is not trusted, or cannot be imported.
    """
    is_named = model.backend == "torch" and model.name not in _SHIPPED
    if is_named and local_folder(model.name) is None:
        own = find_custom(model)
        if own is not None:
            return own
    return find_model(model.name, model.adapter, model.backend)


def refuse_adapter(source: ModelSource, what: str) -> None:
    """Refuse an adapter where only whole models are supported.

    Args:
        source: The model.
        what: What does not support it, for the message.

    Raises:
        ModelError: the model has an adapter.
    """
    if source.adapter is not None:
        raise ModelError(
            f"{source.adapter.name}: {what} cannot have an adapter: merge it into the weights "
            "(merge_and_unload) and give the folder of the merged model",
            setting="model.adapter",
        )


def _find(name: str) -> ModelSource:
    for kind in KINDS:
        if name == kind.name and kind.is_built_in:
            return kind.built_in(name)
    if name == _DEMO:
        return _from_folder(DEMO_FOLDER, name, None)
    if local_folder(name) is None and not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"{redact(name)!r}: not a model: give a local folder, a Hub name (or name@revision), "
            "demo or stub",
            uri=redact(name),
        )
    return _from_folder(*find_files(name))


def check_arithmetic(source: ModelSource, model: ModelConfig) -> None:
    """Check that the model supports `model.compile`, `model.precision` and `model.backend`.

    Raises:
        ModelError: it does not.
    """
    kind = find_kind(source.kind)
    kind.check_settings(model)
    if model.backend == "torch" and source.folder is not None:
        _refuse_quantized(Path(source.folder))
    if model.compile and not kind.compiles:
        able = ", ".join(one.name for one in KINDS if one.compiles)
        raise ModelError(
            f"model.compile=true supports models of kind {able}; {source.name} is of kind "
            f"{kind.name}: leave it off",
            setting="model.compile",
        )
    if "int8" in (model.precision, model.fast_on_cpu) and not kind.has_int8:
        able = ", ".join(one.name for one in KINDS if one.has_int8)
        name, remedy = (
            ("precision", "auto") if model.precision == "int8" else ("fast_on_cpu", "bf16")
        )
        raise ModelError(
            f"model.{name}=int8 supports models of kind {able}; {source.name} is of kind "
            f"{kind.name}: set model.{name}={remedy}",
            setting=f"model.{name}",
        )


def _refuse_quantized(folder: Path) -> None:
    """Refuse weights in a format of a quantisation library, which raycap's captioners lack."""
    file = folder / CONFIG_FILE
    found = read_json(file).get("quantization_config") if file.is_file() else None
    if not found:
        return
    method = found.get("quant_method") if isinstance(found, dict) else None
    raise ModelError(
        f"{folder}: its weights are quantised ({method or 'unknown method'}), which raycap does "
        "not load: give the model that it was made from; model.precision=int8 quantises a BLIP "
        "for CPUs, and model.backend=vllm runs quantised vision-language models",
        uri=str(folder),
    )


def settled_model(asked: ModelConfig, source: ModelSource) -> ModelConfig:
    """Decide what `model.precision=fast` means on a CPU, by the CPU of this machine.

    It becomes part of the settings, and so of a run's fingerprint: all captioners of a run use the
    same precision on CPUs, wherever it is continued.

    Args:
        asked: The settings as read, already checked.
        source: The model.

    Returns:
        `asked` itself if there is nothing to decide.
    """
    is_settled = asked.precision != "fast" or asked.fast_on_cpu is not None
    if is_settled or asked.backend != "torch" or source.folder is None:
        return asked
    # Imports torch, which takes seconds.
    from raycap.models.device import fast_on_cpu  # noqa: PLC0415

    chosen = fast_on_cpu(has_int8=find_kind(source.kind).has_int8)
    logger.info("precision_chosen model=%s fast_on_cpu=%s", source.name, chosen)
    return asked.model_copy(update={"fast_on_cpu": chosen})


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
            f"{file}: generation: {reason}; correct it there, or remove it",
            uri=str(file),
            setting=f"{GENERATION}.{error.setting}" if error.setting else GENERATION,
        ) from None


def _adapted(source: ModelSource, adapter: AdapterSource) -> ModelSource:
    if not find_kind(source.kind).takes_adapters:
        able = ", ".join(one.name for one in KINDS if one.takes_adapters)
        raise ModelError(
            f"{adapter.name}: is an adapter; models of kind {able} support it, and {source.name} "
            f"is of kind {source.kind}: give the model that it was trained on",
            setting="model.adapter",
        )
    check_peft()
    return replace(source, adapter=adapter)


def _base_of(adapter: AdapterSource) -> ModelSource:
    """Find the model that an adapter names."""
    remedy = f"give it by --model BASE --set model.adapter={adapter.name}"
    if adapter.base is None:
        raise ModelError(
            f"{adapter.name}: a LoRA adapter that does not name the model it was trained on: "
            f"{remedy}",
            uri=adapter.name,
        )
    try:
        source = _find(adapter.base)
    except (ConfigError, ModelError) as error:
        reason = str(error).partition("; or ")[0]
        raise ModelError(
            f"{adapter.name}: a LoRA adapter of {redact(adapter.base)!r}, which cannot be used "
            f"({reason}): {remedy}",
            uri=adapter.name,
        ) from None
    if source.adapter is not None:
        raise ModelError(
            f"{adapter.name}: a LoRA adapter of another adapter, {redact(adapter.base)!r}: merge "
            f"that one into its model, and {remedy}",
            uri=adapter.name,
        )
    return source


def _from_folder(folder: Path, name: str, revision: str | None) -> ModelSource:
    if is_adapter(folder):
        adapter = read_adapter(folder, name, revision)
        return _adapted(_base_of(adapter), adapter)
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
