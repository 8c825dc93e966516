"""The vision-language kind: every other model that transformers loads as image-text-to-text.

Their processors accept images of any size and convert them to tiles, patches, or one square of
fixed size. raycap gives a processor only batches of images of one size, so that all of them become
the same number of tokens: nothing is padded, and no caption depends on the rest of the batch.

Folders are checked without torch: transformers' list of models is read from its source, because
importing that module would import torch.
"""

import ast
from functools import cache, partial
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from typing import Any

from PIL import Image

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.images.grids import Grid, PatchGrid, TileGrid
from raycap.models.base import BatchRange, Captioner, CaptionerKind, ModelSource
from raycap.models.folders import (
    GENERATION_FILE,
    TOKENIZER_FILE,
    check_companions,
    check_side,
    check_weights,
    read_image_settings,
)

ANY_SIZE_PX = 512
"""Side of the images given to a processor that accepts any size; less if it would shrink them."""

_PATCHING = "Qwen2VL"  # the processor of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and later
_TILING = ("Idefics3", "SmolVLM")
_TILE_SETTINGS = frozenset(
    {"image_grid_pinpoints", "do_image_splitting", "max_image_tiles", "max_patches"}
)
"""Settings of processors that cut images into as many tiles as their shape asks for."""

_VOCABULARY_FILES = (TOKENIZER_FILE, "vocab.json", "vocab.txt")
_BICUBIC = int(Image.Resampling.BICUBIC)
_MAPPING = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"


class VlmKind(CaptionerKind):
    """Models that transformers loads as `AutoModelForImageTextToText`."""

    name = "vlm"
    is_threadsafe = False  # some keep the positions of a batch in the model itself
    runs_on_vllm = True
    takes_adapters = True
    takes_questions = True
    answers_freely = True
    extra_files = (
        GENERATION_FILE,  # for its special tokens
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "video_preprocessor_config.json",
        "vocab.json",
    )

    def recognises(self, model_type: str) -> bool:
        """Whether transformers loads this `model_type` as an image-text-to-text model."""
        return model_type in _image_text_models()

    def check(self, folder: Path) -> Target:
        """Check a folder; see `check_vlm_folder`."""
        return check_vlm_folder(folder)

    def check_typed(self, model: ModelConfig) -> None:
        """Make sure that answers can be held to a schema, which vLLM does itself.

        Raises:
            ModelError: the package for it is not installed.
        """
        if model.backend == "torch" and find_spec("llguidance") is None:
            raise ModelError(
                "prompts with a JSON schema or choices need llguidance for this model: "
                "pip install 'raycap[typed]' on every node",
                setting="prompts",
            )

    def load(
        self, folder: Path | None, model: ModelConfig, generation: GenerationConfig
    ) -> Captioner:
        """Load a folder; see `VlmCaptioner.from_pretrained`."""
        from raycap.models.vlm.captioner import VlmCaptioner  # noqa: PLC0415  torch is slow

        assert folder is not None
        return VlmCaptioner.from_pretrained(folder, model, generation)

    def grid(self, source: ModelSource, max_pixels: int) -> Grid | None:
        """Return the sizes of images; see `vlm_grid`."""
        return vlm_grid(Path(source.folder or ""), max_pixels)

    def fitted(self, captioner: Captioner, target: Target) -> Captioner:
        """Return a captioner for images of another size; see `VlmCaptioner.with_target`."""
        from raycap.models.vlm.captioner import VlmCaptioner  # noqa: PLC0415  torch is slow

        assert isinstance(captioner, VlmCaptioner)
        return captioner.with_target(target)

    def batch_range(self, model: ModelConfig, *, on_accelerator: bool) -> BatchRange:
        """Return the batch sizes to choose from; vLLM mixes batches itself."""
        if model.backend == "vllm":
            return BatchRange.fixed(32)
        return super().batch_range(model, on_accelerator=on_accelerator)


@cache
def _image_text_models() -> frozenset[str]:
    """Read which values of `model_type` transformers loads as image-text-to-text models."""
    package = find_spec("transformers")
    file = Path(str(package and package.origin)).parent / "models" / "auto" / "modeling_auto.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[pairs, *_])):
                if name == _MAPPING:
                    return frozenset(dict(ast.literal_eval(pairs)))
    raise ModelError(f"this version of transformers is not supported: it has no {_MAPPING}")


def check_vlm_folder(folder: Path) -> Target:
    """Check that a folder holds weights, tokenizer and processor; return the size of its images.

    Raises:
        ModelError: a file is missing, or is not as transformers writes it.
    """
    check_weights(folder)
    check_companions(folder, _VOCABULARY_FILES)
    file, settings = read_image_settings(folder)
    height_px, width_px = _fixed_size(file, settings) or _any_size(settings)
    try:
        chosen = settings.get("resample")
        resample = Image.Resampling(_BICUBIC if chosen is None else chosen).name.lower()
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{file}: not settings of an image processor: {error}", uri=str(file)
        ) from None
    return Target(width_px=width_px, height_px=height_px, resample=resample)


def _fixed_size(file: Path, settings: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width to which a processor resizes every image; None if they vary."""
    if settings.get("image_grid_pinpoints"):
        return None  # it chooses a grid of tiles by the size of the image
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, dict):
        size = {name: value for name, value in size.items() if value is not None}
    match size:
        case None | {"longest_edge": int()}:
            return None
        case int(side_px) | {"shortest_edge": int(side_px)} if check_side(side_px):
            return side_px, side_px
        case {"height": int(height_px), "width": int(width_px)} if check_side(height_px, width_px):
            return height_px, width_px
    raise ModelError(f"{file}: {size} is not an image size: restore the file", uri=str(file))


def vlm_grid(folder: Path, max_pixels: int) -> Grid | None:
    """Return the sizes of images that a model reads if their aspect ratio is kept.

    The sizes of Qwen-VL, Idefics3 and SmolVLM are those of their processors. Other processors that
    accept any size get images within `max_pixels`, and make of them what they do.

    Args:
        folder: A checked folder.
        max_pixels: Upper bound; the model's own applies if it is lower.

    Returns:
        None if the processor makes every image the same size.

    Raises:
        ModelError: the processor's settings are not as transformers writes them.
    """
    file, settings = read_image_settings(folder)
    processor = str(settings.get("image_processor_type"))
    if processor.startswith(_PATCHING):
        return _patch_grid(file, settings, max_pixels)
    if processor.startswith(_TILING):
        return _tile_grid(file, settings, max_pixels)
    if _fixed_size(file, settings) is None or settings.keys() & _TILE_SETTINGS:
        return PatchGrid(max_pixels=max_pixels)
    return None


def _patch_grid(file: Path, settings: dict[str, Any], max_pixels: int) -> Grid:
    read = partial(_read_px, file, settings)
    least = read("min_pixels", None, read("size", "shortest_edge", 56**2))
    most = read("max_pixels", None, read("size", "longest_edge", 1280 * 28**2))
    multiple_px = read("patch_size", None, 14) * read("merge_size", None, 2)
    most = max(least, multiple_px**2, min(most, max_pixels))
    return PatchGrid(multiple_px=multiple_px, min_pixels=least, max_pixels=most)


def _tile_grid(file: Path, settings: dict[str, Any], max_pixels: int) -> Grid | None:
    if not settings.get("do_image_splitting", True):
        return None
    tile_px = _read_px(file, settings, "max_image_size", "longest_edge", 364)
    longest_px = _read_px(file, settings, "size", "longest_edge", 4 * 364)
    num_tiles = max(1, min(-(-longest_px // tile_px), isqrt(max_pixels) // tile_px))
    return TileGrid(tile_px=tile_px, longest_px=num_tiles * tile_px)


def _read_px(
    file: Path, settings: dict[str, Any], name: str, inner: str | None, default: int
) -> int:
    """Read a number of pixels from a setting, or from a key of it."""
    value = settings.get(name)
    if inner is not None and isinstance(value, dict):
        value = value.get(inner)
    value = default if value is None else value
    if not isinstance(value, int) or value < 1:
        raise ModelError(
            f"{file}: {name} is {settings[name]!r}, not a size: restore the file", uri=str(file)
        )
    return value


def processor_settings(target: Target) -> dict[str, Any]:
    """Return settings of the image processor that a target needs.

    Processors with tiles enlarge every image to the size that they are set to.
    """
    if isinstance(target.grid, TileGrid):
        return {"size": {"longest_edge": target.grid.longest_px}}
    return {}


def _any_size(settings: dict[str, Any]) -> tuple[int, int]:
    size = settings.get("size")
    # Some processors mean a side and others an area; the smallest area is far above any side.
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    side_px = min(ANY_SIZE_PX, longest) if isinstance(longest, int) and longest > 0 else ANY_SIZE_PX
    return side_px, side_px
