"""Files that all kinds of model share in their folders: names, checks, digest, preprocessing.

Folders are read and checked before torch is loaded. Every error is a `ModelError` that names the
folder and a remedy: users choose models by hand, and a traceback from a worker an hour later would
not help them.

Loading a checked folder runs no code. Safetensors hold numbers only, but a file of that name can be
a pickle, and other files can make the loader read more: an index can name any file, the settings of
an adapter another model, and `attn_implementation` compiled code on the Hub.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.parsing import parse_json
from raycap.runs.records import RUN

SectionT = TypeVar("SectionT", bound=BaseModel)

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
KIND_FILE = "raycap.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
TOKENIZER_FILE = "tokenizer.json"
MODEL = "model"
"""Folder of the model in the output of a training run or search."""

WEIGHT_FILE = "model.safetensors"
WEIGHT_INDEX_FILE = "model.safetensors.index.json"
SAFE_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")
"""What may be in a model's folder; nothing else is downloaded or copied."""

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")

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

# The defaults of transformers' BlipImageProcessor.
_DEFAULT_SIZE = {"height": 384, "width": 384}
_DEFAULT_RESCALE = 1 / 255
_DEFAULT_RESAMPLE = int(Image.Resampling.BICUBIC)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_ADAPTER_FILE = "adapter_config.json"
_ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
_OWN_ATTENTION = frozenset({None, "eager", "sdpa"})
_COUNT = re.compile(r"layers|depth|blocks|experts|stages")
_SPARE_LAYERS = 1_000
"""A model of this many layers is built within seconds; some counts are for other purposes."""
_MAX_SIDE_PX = 16_384
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
_TRAINER_PICKLES = frozenset({"optimizer.pt", "scheduler.pt", "scaler.pt"})
_OTHER_PATTERNS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.ckpt", "*.pth", "*.pt", "*.bin")
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # pickle protocol 2 and later, and torch.save's zip


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Conversion of pixels to model input: resize, then `(rescale * pixel - mean) / std`."""

    target: Target
    """Size, and how images are resampled to it."""
    rescale: float = _DEFAULT_RESCALE
    """Factor that scales a byte to the range of `mean`."""
    mean: tuple[float, ...] = _CLIP_MEAN
    """Of red, green and blue."""
    std: tuple[float, ...] = _CLIP_STD
    """Of red, green and blue."""

    def to_json(self) -> dict[str, Any]:
        """Return the file contents that transformers' `BlipImageProcessor` writes."""
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


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read the image part of a processor's settings.

    Raises:
        ModelError: the file is missing or invalid, or does not set a fixed input size.
    """
    file, settings = read_image_settings(folder)
    try:
        resample = Image.Resampling(settings.get("resample", _DEFAULT_RESAMPLE)).name.lower()
        rescale = float(settings.get("rescale_factor", _DEFAULT_RESCALE))
        mean = tuple(float(value) for value in settings.get("image_mean", _CLIP_MEAN))
        std = tuple(float(value) for value in settings.get("image_std", _CLIP_STD))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{file}: not settings of an image processor: {error}", uri=str(file)
        ) from None
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ModelError(
            f"{file}: image_mean and image_std must be three numbers, std not 0", uri=str(file)
        )
    height_px, width_px = read_size(file, settings.get("size", _DEFAULT_SIZE))
    normalises = settings.get("do_normalize", True)
    return Preprocessing(
        target=Target(width_px=width_px, height_px=height_px, resample=resample),
        rescale=rescale if settings.get("do_rescale", True) else 1.0,
        mean=mean if normalises else (0.0, 0.0, 0.0),
        std=std if normalises else (1.0, 1.0, 1.0),
    )


def mean_colour(folder: Path) -> tuple[int, int, int]:
    """Return the RGB colour that a processor turns into zeros.

    Raises:
        ModelError: its settings are missing or invalid.
    """
    file, settings = read_image_settings(folder)
    match settings.get("image_mean") or _CLIP_MEAN:
        case [int() | float(), int() | float(), int() | float()] as mean:
            red, green, blue = (round(255 * min(1.0, max(0.0, value))) for value in mean)
            return red, green, blue
    raise ModelError(f"{file}: image_mean must be three numbers: restore the file", uri=str(file))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing or holds something else.
    """
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file.parent}: no {file.name}{_hint(file)}", uri=str(file.parent)
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file}: cannot be read as JSON ({error}): restore the file", uri=str(file)
        ) from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: must hold a JSON object: restore the file", uri=str(file))
    return value


def read_section(file: Path, kind: type[SectionT], values: object, name: str = "") -> SectionT:
    """Check values that were read from a JSON file.

    Args:
        file: For error messages.
        kind: What the values make.
        values: The values, a JSON object.
        name: Key of the values in the file; empty if they are the whole file.

    Raises:
        ModelError: a value is not allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join((*([name] if name else ()), *map(str, first["loc"])))
        reason = first["msg"].removeprefix("Value error, ")
        raise ModelError(f"{file}: {place}: {reason}: restore the file", uri=str(file)) from None


def _hint(file: Path) -> str:
    """Say where the folder of a model may be, if a folder has no `config.json`."""
    inner = sorted(
        path.parent
        for pattern in ("*", "snapshots/*")
        for path in file.parent.glob(f"{pattern}/{file.name}")
    )
    if inner:
        # The last checkpoint of a trainer by its number, and a model before its checkpoints.
        inner.sort(key=lambda path: ("-" in path.name, -_number_at_end(path.name)))
        return f"; did you mean {inner[0]}?"
    others = [path for pattern in _OTHER_PATTERNS for path in sorted(file.parent.glob(pattern))]
    if others:
        return (
            f", only {others[0].name}: convert it to the folder of a Hugging Face model (load with "
            "the program that wrote it, then save_pretrained of transformers)"
        )
    return ": point at the folder of a Hugging Face model"


def _number_at_end(name: str) -> int:
    digits = re.search(r"\d{1,18}$", name)
    return int(digits[0]) if digits else 0


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def digest_folder(folder: Path, extra_files: Sequence[str] = ()) -> str:
    """Digest the files that decide captions: weights, tokenizer, architecture and preprocessing.

    Args:
        folder: Of the model.
        extra_files: Further files to include, if they exist.

    Returns:
        SHA-256 in hex over names and contents, in the order of the names.

    Raises:
        ModelError: a file cannot be read.
    """
    weights = [path.name for path in folder.glob("*.safetensors")]
    names = (*_DIGESTED_FILES, *extra_files)
    present = [name for name in names if (folder / name).is_file()]
    return digest_files(folder, [*weights, *present])


def digest_files(folder: Path, names: Sequence[str]) -> str:
    """Digest files of a folder: SHA-256 in hex over their names and contents.

    Raises:
        ModelError: a file cannot be read.
    """
    total = hashlib.sha256()
    for name in sorted(set(names)):
        try:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(
                f"{folder / name}: cannot be read ({error.strerror})", uri=str(folder / name)
            ) from None
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def check_weights(folder: Path) -> None:
    """Check that a folder holds weights as safetensors.

    Raises:
        ModelError: it holds none.
    """
    if (folder / WEIGHT_FILE).is_file() or (folder / WEIGHT_INDEX_FILE).is_file():
        return
    variants = sorted(path.name for path in folder.glob("model.*.safetensors"))
    if variants:
        raise ModelError(
            f"{folder}: no {WEIGHT_FILE}, only {variants[0]}, a variant of it: rename it, or save "
            "the model there with save_pretrained",
            uri=str(folder),
        )
    pickles = sorted(
        path.name
        for pattern in PICKLE_PATTERNS
        for path in folder.glob(pattern)
        if path.name not in _TRAINER_PICKLES
    )
    if pickles:
        raise ModelError(
            f"{folder}: only pickled weights ({pickles[0]}), which can run code when loaded and "
            f"are refused: convert them to {WEIGHT_FILE} (load with transformers, save_pretrained)",
            uri=str(folder),
        )
    raise ModelError(
        f"{folder}: no {WEIGHT_FILE}: save the model there with save_pretrained", uri=str(folder)
    )


def check_companions(folder: Path, vocabulary_files: Sequence[str]) -> None:
    """Check that a folder has a tokenizer and an image processor.

    Saving a model with transformers does not save them.

    Args:
        folder: Of the model.
        vocabulary_files: One of them makes a tokenizer.

    Raises:
        ModelError: the files are missing.
    """
    missing = []
    if not any((folder / name).is_file() for name in vocabulary_files):
        missing.append(f"tokenizer ({' or '.join(vocabulary_files)}, and tokenizer_config.json)")
    has_inner = (folder / PROCESSOR_FILE).is_file() and isinstance(
        read_json(folder / PROCESSOR_FILE).get("image_processor"), dict
    )
    if not has_inner and not (folder / PREPROCESSOR_FILE).is_file():
        missing.append(f"image processor ({PREPROCESSOR_FILE})")
    if not missing:
        return
    config = read_json(folder / CONFIG_FILE)
    base = config.get("_name_or_path")
    named = f", {base}" if isinstance(base, str) and base and base != str(folder) else ""
    raise ModelError(
        f"{folder}: no {' and no '.join(missing)}: copy them from the folder of the model that it "
        f"was trained from{named}, or write them with processor.save_pretrained({str(folder)!r})",
        uri=str(folder),
    )


def local_folder(name: str, what: str = "model") -> Path | None:
    """Return the folder that a name means; None if it is a name on the Hub.

    Args:
        name: A path if it starts with `.`, `/` or `~`, or exists.
        what: What it is to hold, for the message.

    Raises:
        ConfigError: there is nothing at the path.
        ModelError: it is no folder, or the output of a run, which holds its model inside.
    """
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
    if not name.startswith((".", "/", "~")) and not (name and path.exists()):
        return None
    _check_folder(path, name, what)
    return path.resolve()


def find_files(name: str, what: str = "model") -> tuple[Path, str, str | None]:
    """Return the folder of a named model or adapter; download it from the Hub if necessary.

    Args:
        name: A local folder (starts with `.`, `/` or `~`, or exists), a Hub name, or a Hub
            `name@revision`.
        what: What the folder is to hold, for the message.

    Returns:
        The folder, the name without a revision, and the commit; None for a local folder.

    Raises:
        ConfigError: there is no such folder.
        ModelError: it is no folder, or the Hub cannot provide it.
    """
    folder = local_folder(name, what)
    if folder is not None:
        return folder, name, None
    from raycap.models.hub import download  # noqa: PLC0415  loads the Hub's library

    repository, _, revision = name.partition("@")
    folder = download(repository, revision or None)
    # The cache names a snapshot after its commit, which pins the content of a branch or tag.
    return folder, repository, folder.name


def _check_folder(path: Path, name: str, what: str) -> None:
    if path.is_file() and any(path.match(pattern) for pattern in PICKLE_PATTERNS):
        raise ModelError(
            f"{name}: a pickled checkpoint, which can run code when loaded and is refused: "
            f"give a folder with {WEIGHT_FILE}",
            uri=name,
        )
    if not path.exists():
        raise ConfigError(f"{name}: no such folder: give the folder of a saved {what}", uri=name)
    if not path.is_dir():
        raise ModelError(f"{name}: is a file: give the folder of a saved {what}", uri=name)
    # The `config.json` of such an output is that of the run, and says nothing about a model.
    if (path / RUN).is_file() and not (path / WEIGHT_FILE).exists():
        has_model = (path / MODEL / CONFIG_FILE).is_file()
        inside = f"did you mean {name.rstrip('/')}/{MODEL}?" if has_model else "it has no model yet"
        raise ModelError(f"{name}: is the output of a run, not a model: {inside}", uri=name)


def check_side(*sides_px: int) -> bool:
    """Whether these are possible sides of an input image, in pixels."""
    return all(0 < side_px <= _MAX_SIDE_PX for side_px in sides_px)


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors of a safetensors file, without the tensors.

    Raises:
        ModelError: the file is damaged or cut short.
    """
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            size = file.stat().st_size
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError("no header of tensors")
            header = parse_json(content.read(length))
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except FileNotFoundError:
        raise ModelError(f"{file}: is missing: restore it", uri=str(file)) from None
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{file}: not a safetensors file ({type(error).__name__}: {reason}): restore it",
            uri=str(file),
        ) from None
    if 8 + length + end > size:
        raise ModelError(
            f"{file}: cut short: {size:,} of {8 + length + end:,} bytes: copy it again",
            uri=str(file),
        )
    return shapes


def check_layers(folder: Path) -> None:
    """Check that `config.json` does not ask for far more layers than the weights can fill.

    A model is built before its weights are read, layer by layer: one with a hundred million layers
    would never be finished.

    Raises:
        ModelError: it does, or a file of weights is damaged.
    """
    num_tensors = sum(len(read_shapes(file)) for file in weight_files(folder))
    most = num_tensors + _SPARE_LAYERS
    for name, value in _counts(read_json(folder / CONFIG_FILE)):
        if value > most:
            raise ModelError(
                f"{folder / CONFIG_FILE}: {name} is {value:,}, but the weights have only "
                f"{num_tensors:,} tensors: restore the file",
                uri=str(folder / CONFIG_FILE),
            )


def _counts(value: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the numbers that decide how many layers a model has."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _counts(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _counts(inner, name)
    elif isinstance(value, int | float) and _COUNT.search(name) and value > _SPARE_LAYERS:
        yield name, int(min(value, sys.maxsize))


def read_image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Read the image part of a processor's settings; return its file and its values.

    Raises:
        ModelError: the file is missing or not JSON.
    """
    # If a whole processor was saved, transformers reads the image settings from there first.
    if (folder / PROCESSOR_FILE).is_file():
        inner = read_json(folder / PROCESSOR_FILE).get("image_processor")
        if isinstance(inner, dict):
            return folder / PROCESSOR_FILE, inner
    return folder / PREPROCESSOR_FILE, read_json(folder / PREPROCESSOR_FILE)


def read_size(file: Path, value: object) -> tuple[int, int]:
    """Read height and width in pixels from a setting; a single number is the side of a square.

    Args:
        file: For error messages.
        value: The setting.

    Raises:
        ModelError: it is not a fixed size.
    """
    sides: object = value
    if isinstance(value, int):
        sides = [value, value]
    elif isinstance(value, dict):
        sides = [value.get("height"), value.get("width")]
    match sides:
        case [int(height_px), int(width_px)] if check_side(height_px, width_px):
            return height_px, width_px
    raise ModelError(
        f"{file}: image size {value} is not a fixed height and width, which BLIP needs: "
        'write it as {"height": 384, "width": 384}',
        uri=str(file),
    )


def check_safe(folder: Path) -> None:
    """Check that loading a folder reads only its own safetensors.

    Raises:
        ModelError: a weight file is a pickle, or other weights or code would be loaded.
    """
    if (folder / _ADAPTER_FILE).is_file():
        raise ModelError(
            f"{folder}: holds an adapter ({_ADAPTER_FILE}), which is loaded over the weights and "
            "may name another model: merge it into the weights (merge_and_unload) and save them",
            uri=str(folder),
        )
    for name in _found_values(read_json(folder / CONFIG_FILE), _ATTENTION):
        if name not in _OWN_ATTENTION:
            raise ModelError(
                f"{folder / CONFIG_FILE}: attn_implementation is {json.dumps(name)}, which can "
                "fetch code and is refused: remove it",
                uri=str(folder / CONFIG_FILE),
            )
    for name in _shards(folder):
        if not name.endswith(".safetensors") or name != Path(name).name:
            raise ModelError(
                f"{folder / WEIGHT_INDEX_FILE}: names {name!r}, which is not a safetensors file "
                "of that folder and is refused: restore the file",
                uri=str(folder / WEIGHT_INDEX_FILE),
            )
    for file in sorted(folder.glob("*.safetensors")):
        refuse_pickle(file)


def _found_values(value: object, names: frozenset[str]) -> Iterator[Any]:
    """Yield the values of these names at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names:
                yield from inner.values() if isinstance(inner, dict) else [inner]
            yield from _found_values(inner, names)


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a model's weights.

    Raises:
        ModelError: the index is not JSON, or lists no files.
    """
    # As transformers: an index beside a whole file is ignored.
    whole = folder / WEIGHT_FILE
    return [whole] if whole.is_file() else [folder / name for name in _shards(folder)]


def _shards(folder: Path) -> list[str]:
    index = folder / WEIGHT_INDEX_FILE
    if not index.is_file():
        return [WEIGHT_FILE]
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict):
        raise ModelError(f"{index}: no weight_map: restore the file", uri=str(index))
    return sorted({str(name) for name in found.values()})


def refuse_pickle(file: Path) -> None:
    """Check that a file of weights is not a pickle under another name.

    Raises:
        ModelError: it is, or it cannot be read.
    """
    try:
        with file.open("rb") as content:
            start = content.read(9)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})", uri=str(file)) from None
    # Eight bytes of header length, which is under 100 MB, then the header, which is JSON.
    is_safetensors = start[4:8] == bytes(4) and start[8:] == b"{"
    if start.startswith(_PICKLE_STARTS) and not is_safetensors:
        raise ModelError(
            f"{file}: is a pickle under another name; pickles can run code when loaded and are "
            f"refused: convert it to safetensors (load with transformers, save_pretrained)",
            uri=str(file),
        )
