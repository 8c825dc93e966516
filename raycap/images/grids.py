"""Sizes of images that keep their aspect ratio, within a budget of pixels.

The rules are those of the models' own processors: an image at such a size passes its processor
unresized.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

MOST_ELONGATED = 200
"""The largest ratio of an image's sides; longer images are squeezed to it, as Qwen-VL requires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGrid:
    """Sides that are multiples of a patch, and an area between two bounds, as of Qwen-VL.

    With the default bounds, an image is only ever scaled down.
    """

    max_pixels: int
    min_pixels: int = 1
    multiple_px: int = 1
    """Both sides are multiples of it: for Qwen-VL, the patch size times the merge size."""

    def size_of(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the width and height for an image, as `smart_resize` of Qwen-VL does."""
        width, height = _squeezed(width_px, height_px)
        step = self.multiple_px
        sides = round(width / step), round(height / step)
        area = math.prod(sides) * step**2
        # In the order of operations of `smart_resize`, so that rounding is the same.
        if area > self.max_pixels:
            beta = math.sqrt(width * height / self.max_pixels)
            most = max(1, self.max_pixels // step**2)  # where the other side is 1
            sides = _bounded(width / beta / step, most), _bounded(height / beta / step, most)
        elif area < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (width * height))
            sides = math.ceil(width * beta / step), math.ceil(height * beta / step)
        return sides[0] * step, sides[1] * step

    def describe(self) -> dict[str, Any]:
        """Return plain values, for fingerprints."""
        return {"grid": "patches", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Square tiles, as of Idefics3 and SmolVLM.

    Their processors scale an image up or down until its longer side is `longest_px`, and round the
    shorter side up to whole tiles.
    """

    tile_px: int
    longest_px: int
    """A multiple of `tile_px`."""

    @property
    def max_pixels(self) -> int:
        """The pixels of a square image."""
        return self.longest_px**2

    def size_of(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the width and height for an image."""
        short = self.longest_px * min(width_px, height_px) // max(width_px, height_px)
        side = max(1, math.ceil(short / self.tile_px)) * self.tile_px
        return (self.longest_px, side) if width_px >= height_px else (side, self.longest_px)

    def describe(self) -> dict[str, Any]:
        """Return plain values, for fingerprints."""
        return {"grid": "tiles", **asdict(self)}


Grid = PatchGrid | TileGrid
"""A rule that gives every image its own size."""


def _bounded(side: float, most: int) -> int:
    return min(most, max(1, math.floor(side)))


def _squeezed(width_px: int, height_px: int) -> tuple[int, int]:
    most_px = MOST_ELONGATED * min(width_px, height_px)
    return min(width_px, most_px), min(height_px, most_px)
