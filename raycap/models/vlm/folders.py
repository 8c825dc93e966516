"""What the folder of a vision-language model says of itself, read without torch.

Their processors take images of any size, and each makes its own pixels of them: tiles, patches, or
one fixed square. raycap hands a processor images of one size, so that every image of a batch is
read as the same number of tokens: nothing is padded, and no caption depends on its neighbours.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.folders import TOKENIZER_FILE, check_weights, read_image_settings

ANY_SIZE_PX = 512
"""Side of the images that go to a processor which takes any size, or less where it shrinks them."""

_VOCABULARY_FILES = (TOKENIZER_FILE, "vocab.json", "vocab.txt")
_BICUBIC = int(Image.Resampling.BICUBIC)


def check_vlm_folder(folder: Path) -> Target:
    """Check that a folder holds weights, tokenizer and processor; say what images it is given.

    Raises:
        ModelError: something is missing, or is not what transformers writes.
    """
    check_weights(folder)
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        raise ModelError(
            f"{folder}: no tokenizer ({TOKENIZER_FILE}): save it there with "
            "processor.save_pretrained"
        )
    file, settings = read_image_settings(folder)
    height_px, width_px = _fixed_size(file, settings) or _any_size(settings)
    try:
        chosen = settings.get("resample")
        resample = Image.Resampling(_BICUBIC if chosen is None else chosen).name.lower()
    except (TypeError, ValueError) as error:
        raise ModelError(f"{file}: not settings of an image processor: {error}") from None
    return Target(width_px=width_px, height_px=height_px, resample=resample)


def _fixed_size(file: Path, settings: dict[str, Any]) -> tuple[int, int] | None:
    """Find the one height and width that a processor makes of every image, if there is one."""
    if settings.get("image_grid_pinpoints"):
        return None  # it chooses a grid of tiles by the image's own size
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, dict):
        size = {name: value for name, value in size.items() if value is not None}
    match size:
        case None | {"longest_edge": int()}:
            return None
        case int(side_px) | {"shortest_edge": int(side_px)} if side_px > 0:
            return side_px, side_px
        case {"height": int(height_px), "width": int(width_px)} if min(height_px, width_px) > 0:
            return height_px, width_px
    raise ModelError(f"{file}: {size} is no size of images: restore the file")


def _any_size(settings: dict[str, Any]) -> tuple[int, int]:
    size = settings.get("size")
    # Of some processors it is a side and of others an area; the least area is far above a side.
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    side_px = min(ANY_SIZE_PX, longest) if isinstance(longest, int) and longest > 0 else ANY_SIZE_PX
    return side_px, side_px
