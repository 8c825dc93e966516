"""Pictures of sampled images, for a person to look at."""

from io import BytesIO

from PIL import Image

from raycap.config import ImageConfig
from raycap.images import Target, decode

MAX_PICTURES = 400
"""Sampled images that get a picture; further ones are captioned and counted all the same."""

_SIDE_PX = 288
_QUALITY = 75


def picture_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Give the size of an image's picture: never larger than the image."""
    scale = min(1.0, _SIDE_PX / max(width_px, height_px))
    return max(1, round(scale * width_px)), max(1, round(scale * height_px))


def shrink(data: bytes, size: tuple[int, int], config: ImageConfig) -> bytes:
    """Shrink an image file that is known to decode; give a WebP.

    Args:
        data: the file.
        size: width and height of the image in pixels, upright.
        config: what is accepted as an image.
    """
    width_px, height_px = picture_size(*size)
    pixels = decode(data, Target(width_px=width_px, height_px=height_px), config).pixels
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=_QUALITY)
    return sink.getvalue()
