"""Values of more than 8 bits, scaled to 8.

Of 16-bit colour, Pillow keeps only the upper byte, which 12-bit cameras hardly use.
"""

import sys
from io import BytesIO

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageFile

_SCALED_VALUES = 2**20  # per step: their float64 copies take 30 bytes per value
_NATIVE = ";16L" if sys.byteorder == "little" else ";16B"
_SWAPPED = {";16L": ";16B", ";16B": ";16L", ";16N": {";16L": ";16B", ";16B": ";16L"}[_NATIVE]}
_MODES = ("RGB", "RGBA")
_USED_IN_12_BITS = 16  # levels of the upper byte


def bits_used(values: Num[np.ndarray, "*shape"]) -> int:
    """Return the bits that 16-bit values use: cameras and scanners store 8, 10 or 12 in 16."""
    if values.dtype.itemsize != 2:
        return 16
    used = int(values.max(initial=0)).bit_length()
    return next((num_bits for num_bits in (8, 10, 12) if used <= num_bits), 16)


def scale_to_uint8(
    values: Num[np.ndarray, "*shape"], num_bits: int = 16
) -> UInt8[np.ndarray, "*shape"]:
    """Scale 16-bit, 32-bit or float grey to 0..255, as described in `decode`."""
    if values.dtype.itemsize == 2:
        return (values >> max(0, num_bits - 8)).astype(np.uint8)
    flat = values.reshape(-1)
    places = [slice(at, at + _SCALED_VALUES) for at in range(0, flat.size, _SCALED_VALUES)]
    ends = [end for place in places for end in _range(flat[place])]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    if low >= 0 and high <= 255 * 256 + 255:
        is_unit = high <= 1 and values.dtype.kind == "f"
        # Up to 65,535, white is 255 * 256, as for 16-bit images, which are divided by 256.
        low, high = 0.0, 1.0 if is_unit else 255.0 if high <= 255 else 255.0 * 256
    levels = np.empty(flat.shape, np.uint8)
    for place in places:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            scaled = np.nan_to_num(np.interp(flat[place], (low, high), (0.0, 255.0)))
        levels[place] = np.rint(scaled)
    return levels.reshape(values.shape)


def _range(values: Num[np.ndarray, " n"]) -> tuple[float, ...]:
    """Return the minimum and maximum of the finite values; nothing if there are none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else ()


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Return whether an image, which is not loaded yet, has 16 bits per channel of colour."""
    return image.mode in _MODES and bool(image.tile) and all(map(_raw_mode, image.tile))


def with_all_bits(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Return a loaded 16-bit colour image, scaled from the bits that its values use.

    Where only 8, 10 or 12 of the 16 bits are used, the lower bytes are decoded too: with the other
    byte order, Pillow takes them for the upper ones.

    Args:
        image: for which `is_deep` was true, loaded.
        data: its file.
    """
    upper = np.asarray(image)
    if upper[..., :3].max(initial=0) >= _USED_IN_12_BITS:
        return image
    with Image.open(BytesIO(data), formats=[str(image.format)]) as again:
        again.tile = [_with_lower_bytes(tile) for tile in again.tile]
        lower = np.asarray(again)
    values = upper.astype(np.uint16) << 8 | lower
    levels = upper.copy()  # transparency stays
    colours = values[..., :3]
    levels[..., :3] = scale_to_uint8(colours, bits_used(colours))
    return Image.fromarray(levels, image.mode)


def _raw_mode(tile: ImageFile._Tile) -> str:
    """Return the layout of a tile's values if they have 16 bits, such as `RGB;16B`."""
    name = tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]
    return name if isinstance(name, str) and name[-4:] in _SWAPPED else ""


def _with_lower_bytes(tile: ImageFile._Tile) -> ImageFile._Tile:
    name = _raw_mode(tile)
    swapped = f"{name[:-4]}{_SWAPPED[name[-4:]]}"
    args = swapped if isinstance(tile.args, str) else (swapped, *(tile.args or ())[1:])
    return tile._replace(args=args)
