"""Thumbnails: image files shrunk to WebP, decoded with the limits of captioning."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from raycap.config import ImageConfig
from raycap.images.decoding import Target, decode

_PROBE = Target(width_px=1, height_px=1, resample="nearest")  # cheap, and gives the image's size
_QUALITIES = (80, 60, 40)
_BYTES_PER_PX = 0.33  # of a square thumbnail: 200 of 320 pixels stay below 10 MB, even white noise
_LEAST_BYTES = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture."""

    data: bytes
    """A WebP file. Of an image that compresses badly, it may have half the size."""
    width_px: int
    """Width to show it at."""
    height_px: int


def thumbnail(data: bytes, side_px: int, limits: ImageConfig) -> Thumbnail:
    """Shrink an image file. Small images keep their size.

    Args:
        data: the file.
        side_px: longer side of the thumbnail in pixels.
        limits: on image files.

    Raises:
        ImageError: it cannot be decoded.
    """
    size = decode(data, _PROBE, limits)
    target = _fitting(size.width_px, size.height_px, side_px)
    pixels = decode(data, target, limits).pixels
    max_bytes = max(_LEAST_BYTES, int(_BYTES_PER_PX * side_px**2))
    return Thumbnail(
        data=_encode(Image.fromarray(pixels), max_bytes),
        width_px=target.width_px,
        height_px=target.height_px,
    )


def _fitting(width_px: int, height_px: int, side_px: int) -> Target:
    scale = min(1.0, side_px / max(width_px, height_px))
    return Target(
        width_px=max(1, round(width_px * scale)), height_px=max(1, round(height_px * scale))
    )


def _encode(image: Image.Image, max_bytes: int) -> bytes:
    """Encode as WebP; if too large, in lower quality, and finally at half the size."""
    data = b""
    for quality in _QUALITIES:
        data = _webp(image, quality)
        if len(data) <= max_bytes:
            return data
    return _webp(image.reduce(2), _QUALITIES[-1])


def _webp(image: Image.Image, quality: int) -> bytes:
    sink = BytesIO()
    image.save(sink, "WEBP", quality=quality, method=4)
    return sink.getvalue()
