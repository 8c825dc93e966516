"""Images in memory as files, so that they are decoded and resized like any image file."""

from io import BytesIO

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from raycap.errors import ConfigError, ErrorCode, ImageError

_PLAIN = ("L", "RGB")
_DEEP = ("I", "F")  # and the forms of I;16
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def file_of(image: object) -> bytes:
    """Return an image in memory as a file with the same pixels, upright and uncompressed.

    Args:
        image: A Pillow image, or an array of uint8: `[H, W]` and `[H, W, 1]` are grey, `[H, W, 3]`
            is RGB, `[H, W, 4]` is RGBA.

    Raises:
        ConfigError: it is something else, or an array of another type or shape.
        ImageError: `decode_failed`: Pillow cannot read the file that the image is to come from.
    """
    if isinstance(image, np.ndarray):
        return _written(_of_array(image))
    if not isinstance(image, Image.Image):
        raise ConfigError(
            f"images: {type(image).__name__} is not an image: give a Pillow image, an array of "
            "uint8 [height, width, 3], bytes, a path or an address",
            setting="images",
        )
    try:
        return _written(_simplified(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise anything
        reason = " ".join(str(error).split())[:160]
        raise ImageError(ErrorCode.DECODE_FAILED, f"{image.format}: {reason}") from error


def _of_array(array: Shaped[np.ndarray, "..."]) -> Image.Image:
    num_channels = 1 if array.ndim == 2 else array.shape[-1]
    is_image = array.ndim in (2, 3) and num_channels in _MODES and array.size > 0
    if array.dtype != np.uint8 or not is_image:
        shape = ", ".join(map(str, array.shape))
        remedy = "" if array.dtype == np.uint8 else "; scale and round other values to 0..255"
        raise ConfigError(
            f"images: an array of {array.dtype} [{shape}]: give uint8 [height, width, 3], or grey "
            f"[height, width] or RGBA [height, width, 4]{remedy}",
            setting="images",
        )
    flat = array[..., 0] if array.ndim == 3 and num_channels == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _simplified(image: Image.Image) -> Image.Image:
    """Convert to a mode that a file can have, as decoding the original file would."""
    if image.mode in (*_PLAIN, "RGBA") and "transparency" not in image.info:
        return image
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return image
    if (image.mode != "P" or image.palette) and image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        return straight.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _written(image: Image.Image) -> bytes:
    sink = BytesIO()
    if image.mode in _PLAIN:
        image.save(sink, "PPM")
        return sink.getvalue()
    bare = image.copy()
    bare.info = {}  # of another format, such as its compression
    bare.save(sink, "TIFF")
    return sink.getvalue()
