"""The vision-language kind: every other model that transformers loads as image-text-to-text.

Their processors accept images of any size and convert them to tiles, patches, or one square of
fixed size. raycap gives a processor images of one size, so that all images of a batch become the
same number of tokens: nothing is padded, and no caption depends on the rest of the batch.

Folders are checked without torch: transformers' list of models is read from its source, because
importing that module would import torch.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import BatchRange, Captioner, CaptionerKind
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

    def load(
        self, folder: Path | None, model: ModelConfig, generation: GenerationConfig
    ) -> Captioner:
        """Load a folder; see `VlmCaptioner.from_pretrained`."""
        from raycap.models.vlm.captioner import VlmCaptioner  # noqa: PLC0415  torch is slow

        assert folder is not None
        return VlmCaptioner.from_pretrained(folder, model, generation)

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


def _any_size(settings: dict[str, Any]) -> tuple[int, int]:
    size = settings.get("size")
    # Some processors mean a side and others an area; the smallest area is far above any side.
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    side_px = min(ANY_SIZE_PX, longest) if isinstance(longest, int) and longest > 0 else ANY_SIZE_PX
    return side_px, side_px
