"""Random augmentation of training images, repeatable from the seed, the epoch and the image.

Flipping is off by default: captions say "left" and "right", which a mirrored image contradicts.
"""

import math
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from raycap.config import AugmentConfig
from raycap.images.decoding import Target

_REFERENCE_PX = 224
"""Image side that the blur's sigma refers to."""
_BLUR_SIGMA = (0.1, 2.0)
_JPEG_QUALITY = (30, 90)
_ERASED_SHARE = (0.02, 0.2)
_MAX_ENLARGEMENT = 2.0
_TENSOR_FILTERS = ("nearest", "bilinear", "bicubic")
"""Filters that torchvision offers for tensors; bicubic replaces the others."""


class Augmentation:
    """Random changes of images of one size; none if augmentation is disabled."""

    source: Target
    """Size to decode images to before they are changed."""

    def __init__(self, config: AugmentConfig, target: Target) -> None:
        self._crops = config.enabled and config.crop_scale < 1
        # Decoded larger by what the smallest crop cuts off, so that no crop is enlarged.
        scale = min(_MAX_ENLARGEMENT, config.crop_scale**-0.5) if self._crops else 1.0
        self.source = replace(
            target,
            width_px=math.ceil(target.width_px * scale),
            height_px=math.ceil(target.height_px * scale),
        )
        self._changes = _changes(config, target) if config.enabled else []

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[Tensor, "3 y x"]:
        """Augment one image of the size of `source`; return it in the target's size."""
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        # torchvision draws from torch's global generator, whose state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for change in self._changes:
                image = change(image)
        return image.contiguous()


def picture_grid(rows: list[list[UInt8[np.ndarray, "3 h w"]]]) -> bytes:
    """Draw images in rows and columns; return a JPEG."""
    gap_px = 4
    height, width = rows[0][0].shape[1:]
    columns = max(len(row) for row in rows)
    size = (columns * (width + gap_px) + gap_px, len(rows) * (height + gap_px) + gap_px)
    sheet = Image.new("RGB", size, "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            place = (gap_px + column * (width + gap_px), gap_px + row * (height + gap_px))
            sheet.paste(Image.fromarray(image.transpose(1, 2, 0)), place)
    sink = BytesIO()
    sheet.save(sink, "JPEG", quality=90)
    return sink.getvalue()


def _changes(config: AugmentConfig, target: Target) -> list[Any]:
    """List the enabled changes, in the order of their application."""
    # Its import takes longer than everything else that a stream process needs.
    from torchvision.transforms import InterpolationMode, v2  # noqa: PLC0415

    size = (target.height_px, target.width_px)
    found: list[Any] = []
    if config.crop_scale < 1:
        name = target.resample if target.resample in _TENSOR_FILTERS else "bicubic"
        scale = (config.crop_scale, 1.0)
        found.append(v2.RandomResizedCrop(size, scale, interpolation=InterpolationMode(name)))
    if config.flip:
        found.append(v2.RandomHorizontalFlip(config.flip))
    if config.colour:
        strength = config.colour
        found.append(v2.ColorJitter(strength, strength, strength, strength / 10))
    if config.blur:
        kernel_px, sigmas = _blur(size)
        found.append(v2.RandomApply([v2.GaussianBlur(kernel_px, sigmas)], config.blur))
    if config.jpeg:
        found.append(v2.RandomApply([_jpeg], config.jpeg))
    if config.erase:
        found.append(v2.RandomErasing(config.erase, scale=_ERASED_SHARE))
    return found


def _jpeg(image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """Encode an image as a JPEG of random quality, and decode it: torchvision's is deprecated."""
    quality = int(torch.randint(_JPEG_QUALITY[0], _JPEG_QUALITY[1] + 1, ()))
    sink = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(sink, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(sink))).permute(2, 0, 1)


def _blur(size: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    """Return the side of the blur's kernel, and the range of sigma."""
    scale = min(size) / _REFERENCE_PX
    low, high = (sigma * scale for sigma in _BLUR_SIGMA)
    # Two sigmas on each side hold 95 % of the weight.
    return 2 * math.ceil(2 * high) + 1, (low, high)
