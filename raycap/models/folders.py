"""What the folder of a model says of itself, read and checked before torch is loaded.

Here what all kinds share, and what is BLIP's; see `scratch_folders` for those trained from scratch,
and `vlm_folders` for the vision-language models of transformers.

Every fault is a `ModelError` that names the folder and what to do, because a model is chosen by
hand and a traceback out of a worker an hour later helps nobody.

Which models transformers knows as vision-language models.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from raycap.errors import ModelError
from raycap.images.decoding import Target


def is_vlm(model_type: object) -> bool:
    """Whether transformers loads a `model_type` of `config.json` as an image-text-to-text model."""
    if not isinstance(model_type, str):
        return False
    # takes seconds to import, and only a model of a kind that is not raycap's own needs it
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


SCRATCH_KINDS = ("cnn-lstm", "transformer", "hybrid")
"""Kinds of model that raycap trains from scratch."""

VLM = "vlm"
"""Kind of every other model that transformers loads as `AutoModelForImageTextToText`."""

SUPPORTED_KINDS = ("blip", *SCRATCH_KINDS, VLM)
"""Kinds of model that can be loaded from a folder of weights."""

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
KIND_FILE = "raycap.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHT_FILE = "model.safetensors"
WEIGHT_INDEX_FILE = "model.safetensors.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_VOCABULARY_FILES = (TOKENIZER_FILE, "vocab.txt")

_DIGESTED_FILES = (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    WEIGHT_INDEX_FILE,
    "added_tokens.json",
    "special_tokens_map.json",
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "vocab.txt",
)
_VLM_FILES = (
    GENERATION_FILE,  # its special tokens count
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "video_preprocessor_config.json",
    "vocab.json",
)

# What transformers' BlipImageProcessor assumes where the file is silent.
_DEFAULT_SIZE = {"height": 384, "width": 384}
_DEFAULT_RESCALE = 1 / 255
_DEFAULT_RESAMPLE = int(Image.Resampling.BICUBIC)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How pixels become the model's input: resized, then `(rescale * pixel - mean) / std`."""

    target: Target
    """The size, and how images are resampled to it."""
    rescale: float = _DEFAULT_RESCALE
    """Factor that takes a byte to the range of `mean`."""
    mean: tuple[float, ...] = _CLIP_MEAN
    """Of red, green and blue."""
    std: tuple[float, ...] = _CLIP_STD
    """Of red, green and blue."""

    def to_json(self) -> dict[str, Any]:
        """As transformers' `BlipImageProcessor` writes it."""
        return {
            "image_processor_type": "BlipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": self.target.height_px, "width": self.target.width_px},
            "resample": int(Image.Resampling[self.target.resample.upper()]),
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def check_folder(folder: Path) -> Preprocessing:
    """Check that a folder holds all of a BLIP captioner, and say how it wants its pixels.

    Raises:
        ModelError: something is missing, of another kind, or contradicts itself.
    """
    config = read_json(folder / CONFIG_FILE)
    _check_blip(folder, config)
    check_weights(folder)
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        raise ModelError(
            f"{folder}: no tokenizer ({' or '.join(_VOCABULARY_FILES)}): "
            "save it there with tokenizer.save_pretrained"
        )
    preprocessing = read_preprocessing(folder)
    wanted = _trained_size(folder, config)
    found = (preprocessing.target.height_px, preprocessing.target.width_px)
    if found != wanted:
        raise ModelError(
            f"{folder}: the preprocessor makes {found[0]}x{found[1]} pixels, but the weights are "
            f"for {wanted[0]}x{wanted[1]} (vision_config.image_size): make the two files agree"
        )
    return preprocessing


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the image part of a processor's settings.

    Raises:
        ModelError: there is no such file, or it asks for what a fixed input size cannot give.
    """
    file, settings = read_image_settings(folder)
    try:
        resample = Image.Resampling(settings.get("resample", _DEFAULT_RESAMPLE)).name.lower()
        rescale = float(settings.get("rescale_factor", _DEFAULT_RESCALE))
        mean = tuple(float(value) for value in settings.get("image_mean", _CLIP_MEAN))
        std = tuple(float(value) for value in settings.get("image_std", _CLIP_STD))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{file}: not settings of an image processor: {error}") from None
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ModelError(f"{file}: image_mean and image_std must be three numbers, std not 0")
    height_px, width_px = _size(file, settings.get("size", _DEFAULT_SIZE))
    normalises = settings.get("do_normalize", True)
    return Preprocessing(
        target=Target(width_px=width_px, height_px=height_px, resample=resample),
        rescale=rescale if settings.get("do_rescale", True) else 1.0,
        mean=mean if normalises else (0.0, 0.0, 0.0),
        std=std if normalises else (1.0, 1.0, 1.0),
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file.parent}: no {file.name}: point at the folder of a Hugging Face model"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as JSON ({error}): restore the file") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: must hold a JSON object: restore the file")
    return value


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def digest_folder(folder: Path, kind: str | None = None) -> str:
    """Digest all that decides a caption: weights, tokenizer, architecture and preprocessing.

    Args:
        folder: of the model.
        kind: of the model; a `vlm` has further files that count.

    Returns:
        SHA-256 in hex, over names and contents in the order of the names.

    Raises:
        ModelError: a file cannot be read.
    """
    weights = [path.name for path in folder.glob("*.safetensors")]
    names = (*_DIGESTED_FILES, *_VLM_FILES) if kind == VLM else _DIGESTED_FILES
    present = [name for name in names if (folder / name).is_file()]
    total = hashlib.sha256()
    for name in sorted({*weights, *present}):
        try:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read ({error.strerror})") from None
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def read_kind(folder: Path) -> str:
    """Read which kind of model a folder holds, one of SUPPORTED_KINDS.

    Raises:
        ModelError: it is none of these, or its files contradict each other.
    """
    model_type = read_json(folder / CONFIG_FILE).get("model_type")
    found = VLM if model_type not in SUPPORTED_KINDS and is_vlm(model_type) else model_type
    marked = found
    if (folder / KIND_FILE).is_file():
        marked = read_json(folder / KIND_FILE).get("kind", found)
    for kind in (found, marked):
        if kind not in SUPPORTED_KINDS:
            raise ModelError(
                f"{folder}: a model of kind {kind!r}; raycap captions with kinds: "
                f"{', '.join(SUPPORTED_KINDS)}"
            )
    if found != marked:
        raise ModelError(
            f"{folder}: a model of kind {marked!r} by {KIND_FILE}, but {found!r} by {CONFIG_FILE}: "
            "restore the files"
        )
    return str(found)


def check_weights(folder: Path) -> None:
    """Check that a folder holds weights that are safe to load.

    Raises:
        ModelError: it holds none.
    """
    if (folder / WEIGHT_FILE).is_file() or (folder / WEIGHT_INDEX_FILE).is_file():
        return
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder}: only pickled weights ({pickles[0]}), which can run code when loaded and "
            f"are refused: convert them to {WEIGHT_FILE} (load with transformers, save_pretrained)"
        )
    raise ModelError(f"{folder}: no {WEIGHT_FILE}: save the model there with save_pretrained")


def _check_blip(folder: Path, config: dict[str, Any]) -> None:
    kind = read_kind(folder)
    if kind != "blip":
        raise ModelError(f"{folder}: a model of kind {kind!r}, not 'blip': choose another folder")
    # BLIP for questions or retrieval has the same model_type, loads, and captions nonsense.
    architectures = config.get("architectures") or ["BlipForConditionalGeneration"]
    if "BlipForConditionalGeneration" not in architectures:
        raise ModelError(
            f"{folder}: holds {', '.join(map(str, architectures))}, which does not caption: "
            "choose a BlipForConditionalGeneration model"
        )


def read_image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Read the image part of a processor's settings, and tell in which file it stands.

    Raises:
        ModelError: there is no such file, or it is no JSON.
    """
    # Where a whole processor was saved, transformers reads the image settings from there first.
    if (folder / PROCESSOR_FILE).is_file():
        inner = read_json(folder / PROCESSOR_FILE).get("image_processor")
        if isinstance(inner, dict):
            return folder / PROCESSOR_FILE, inner
    if not (folder / PREPROCESSOR_FILE).is_file():
        raise ModelError(
            f"{folder}: no {PREPROCESSOR_FILE}: save it there with "
            "BlipImageProcessor.save_pretrained"
        )
    return folder / PREPROCESSOR_FILE, read_json(folder / PREPROCESSOR_FILE)


def _trained_size(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    vision = config.get("vision_config") or {}
    if not isinstance(vision, dict):
        raise ModelError(f"{folder / CONFIG_FILE}: vision_config must be a JSON object")
    return _size(folder / CONFIG_FILE, vision.get("image_size", _DEFAULT_SIZE))


def _size(file: Path, value: object) -> tuple[int, int]:
    """Read height and width in pixels; a single number is the side of a square."""
    sides: object = value
    if isinstance(value, int):
        sides = [value, value]
    elif isinstance(value, dict):
        sides = [value.get("height"), value.get("width")]
    match sides:
        case [int(height_px), int(width_px)] if height_px > 0 and width_px > 0:
            return height_px, width_px
    raise ModelError(
        f"{file}: image size {value} is not a fixed height and width, which BLIP needs: "
        'write it as {"height": 384, "width": 384}'
    )
