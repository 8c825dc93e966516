"""Image files for model servers: scaled to a budget of pixels, or the original if it fits."""

from io import BytesIO
from typing import Literal

from PIL import Image

from raycap.images.decoding import DecodedImage, Target
from raycap.images.exif import GPS
from raycap.images.grids import PatchGrid

_XMP_GPS = b"GPSLatitude"
_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def target_within(max_pixels: int) -> Target:
    """Return the target of images with at most that many pixels, which keep their aspect ratio.

    Images are scaled down only.
    """
    side_px = max(1, int(max_pixels**0.5))
    return Target(width_px=side_px, height_px=side_px, grid=PatchGrid(max_pixels=max_pixels))


def encode(
    image: DecodedImage, data: bytes, form: Literal["jpeg", "png"] = "jpeg", quality: int = 90
) -> bytes:
    """Return a decoded image as a file that every server reads.

    The original file is returned if it stores the same pixels as JPEG, PNG or WebP, in at most as
    many bytes as the pixels take, and does not tell where it was taken (EXIF or XMP), which is no
    business of a server. It keeps its other metadata; other files have none.

    Args:
        image: From `decode`, of any target.
        data: The file that it was decoded from.
        form: Format of files that are not the original.
        quality: Quality of JPEGs, from 1 to 95.
    """
    is_located = GPS in image.exif or _XMP_GPS in data
    if image.stored_as is not None and len(data) <= image.pixels.nbytes and not is_located:
        return data
    sink = BytesIO()
    picture = Image.fromarray(image.pixels)
    if form == "png":
        picture.save(sink, "PNG")
    else:
        picture.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def media_type(file: bytes) -> str:
    """Return the media type of a file from `encode`, such as `image/jpeg`."""
    return next(kind for start, kind in _SIGNATURES.items() if file.startswith(start))
