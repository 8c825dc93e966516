"""An image file as a dataset stores it: checked by decoding, and shrunk where that is asked for."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from raycap.config import PrepareConfig
from raycap.images import Target, decode

_PROBE = Target(width_px=32, height_px=32, resample="box")
_MAX_JPEG_PX = 65_500
_TURNS = (b"Exif\0\0", b"tiff:Orientation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """What a dataset keeps of an image."""

    data: bytes
    """The file to embed."""
    width_px: int
    """Of that file, upright."""
    height_px: int
    """Of that file, upright."""


def store_image(data: bytes, config: PrepareConfig) -> StoredImage:
    """Check that an image file can be decoded to its end, and shrink it to `embed.max_side_px`.

    A JPEG that is small enough and that no EXIF turns stays as it is, byte for byte; everything
    else becomes an upright JPEG, transparent images on white. Nothing is enlarged.

    Raises:
        ImageError: it cannot be decoded, is empty or too large.
    """
    probe = decode(data, _PROBE, config.image)
    width_px, height_px = probe.width_px, probe.height_px
    side_px = config.embed.max_side_px
    if side_px is not None and config.embed.enabled:
        size = shrunk_size(width_px, height_px, side_px)
        if size != (width_px, height_px) or not _is_plain_jpeg(data):
            return _as_jpeg(data, size, config)
    return StoredImage(data=data, width_px=width_px, height_px=height_px)


def shrunk_size(width_px: int, height_px: int, side_px: int) -> tuple[int, int]:
    """Scale a size so that its shorter side is at most `side_px`, and JPEG can hold the longer."""
    scale = min(1.0, side_px / min(width_px, height_px), _MAX_JPEG_PX / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether it is a JPEG without anything that could turn it."""
    return data.startswith(b"\xff\xd8\xff") and not any(mark in data for mark in _TURNS)


def _as_jpeg(data: bytes, size: tuple[int, int], config: PrepareConfig) -> StoredImage:
    width_px, height_px = size
    pixels = decode(data, Target(width_px=width_px, height_px=height_px), config.image).pixels
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=config.embed.quality)
    return StoredImage(data=sink.getvalue(), width_px=width_px, height_px=height_px)
