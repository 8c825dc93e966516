"""Find, check and identify the CLIP that a user named, without loading it. Imports no torch.

A name is a local folder, a Hub name, or a Hub `name@revision`.
"""

from pathlib import Path
from typing import Any

from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import ModelSource
from raycap.models.folders import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    WEIGHT_FILE,
    WEIGHT_INDEX_FILE,
    check_safe,
    digest_folder,
    find_files,
    read_json,
)

CLIP_KIND = "clip"

_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_DEFAULT_SIDE_PX = 224  # the default of transformers' CLIPVisionConfig


def find_clip(name: str) -> ModelSource:
    """Find a CLIP by name, download it from the Hub if necessary, check it and identify it.

    Args:
        name: A local folder (starts with `.`, `/` or `~`, or exists), a Hub name, or a Hub
            `name@revision`.

    Raises:
        ConfigError: there is no such folder.
        ModelError: it does not exist, or is not a complete CLIP in safetensors.
    """
    return _from_folder(*find_files(name, "CLIP"))


def clip_folder(source: ModelSource) -> Path:
    """Return a CLIP's folder on this node, after checking that it is the same model.

    Raises:
        ModelError: it is not on this node, or differs from the one that was found.
    """
    named = f"{source.name}@{source.revision}" if source.revision else str(source.folder)
    found = find_clip(named)
    if found.digest != source.digest:
        raise ModelError(
            f"{found.folder}: not the CLIP that this evaluation started with (its files differ on "
            "this node, or have changed since): restore them, or start again",
            uri=found.folder,
        )
    return Path(str(found.folder))


def _from_folder(folder: Path, name: str, revision: str | None) -> ModelSource:
    config = read_json(folder / CONFIG_FILE)
    _check(folder, config)
    check_safe(folder)
    vision = config.get("vision_config")
    side_px = vision.get("image_size", _DEFAULT_SIDE_PX) if isinstance(vision, dict) else None
    if not isinstance(side_px, int):
        raise ModelError(
            f"{folder / CONFIG_FILE}: no vision_config with an image_size in pixels",
            uri=str(folder / CONFIG_FILE),
        )
    return ModelSource(
        kind=CLIP_KIND,
        name=name,
        revision=revision,
        folder=str(folder),
        digest=digest_folder(folder),
        target=Target(width_px=side_px, height_px=side_px),
    )


def _check(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != CLIP_KIND:
        raise ModelError(
            f"{folder}: a model of kind {kind!r}: CLIPScore needs one of kind 'clip'",
            uri=str(folder),
        )
    # The text half and the image half of a CLIP have the same model_type.
    architectures = config.get("architectures") or ["CLIPModel"]
    if "CLIPModel" not in architectures:
        raise ModelError(
            f"{folder}: holds {', '.join(map(str, architectures))}: CLIPScore needs a CLIPModel, "
            "which reads images and text",
            uri=str(folder),
        )
    if not _has_any(folder, WEIGHT_FILE, WEIGHT_INDEX_FILE):
        raise ModelError(
            f"{folder}: no {WEIGHT_FILE} (pickled weights can run code when loaded and are "
            "refused): save the model there with save_pretrained",
            uri=str(folder),
        )
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise ModelError(
            f"{folder}: no tokenizer: save it there with tokenizer.save_pretrained", uri=str(folder)
        )
    if not _has_any(folder, PREPROCESSOR_FILE, PROCESSOR_FILE):
        raise ModelError(
            f"{folder}: no {PREPROCESSOR_FILE}: save it there with "
            "CLIPImageProcessor.save_pretrained",
            uri=str(folder),
        )


def _has_any(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)
