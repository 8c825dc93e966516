"""Random changes of training images, the same again for the same seed, epoch and image.

Flipping is off by default: captions say "left" and "right", and a mirrored image makes them lie.
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
"""Side of the image that the blur's sigma is meant for."""
_BLUR_SIGMA = (0.1, 2.0)
_JPEG_QUALITY = (30, 90)
_ERASED_SHARE = (0.02, 0.2)
_MAX_ENLARGEMENT = 2.0
_TENSOR_FILTERS = ("nearest", "bilinear", "bicubic")
"""Filters that torchvision has for tensors; the others become bicubic."""


class Augmentation:
    """Changes images of one size at random; without any change where it is switched off."""

    source: Target
    """The size that images are to be decoded to before they are changed."""

    def __init__(self, config: AugmentConfig, target: Target) -> None:
        self._crops = config.enabled and config.crop_scale < 1
        # Decoded larger by what the smallest crop loses, so that no crop is blown up.
        scale = min(_MAX_ENLARGEMENT, config.crop_scale**-0.5) if self._crops else 1.0
        self.source = replace(
            target,
            width_px=math.ceil(target.width_px * scale),
            height_px=math.ceil(target.height_px * scale),
        )
        self._changes = _changes(config, target) if config.enabled else []

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[Tensor, "3 y x"]:
        """Change one image, of the size of `source`, into one of the target's size."""
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        # torchvision draws from torch's own generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for change in self._changes:
                image = change(image)
        return image.contiguous()


def picture_grid(rows: list[list[UInt8[np.ndarray, "3 h w"]]]) -> bytes:
    """Draw images in rows and columns, as a JPEG."""
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
    """List the changes that are switched on, in the order they are made."""
    # Importing it takes longer than all else that a process of the stream needs.
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
    """Store an image as a JPEG of random quality, and read it again. torchvision's is to go."""
    quality = int(torch.randint(_JPEG_QUALITY[0], _JPEG_QUALITY[1] + 1, ()))
    sink = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(sink, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(sink))).permute(2, 0, 1)


def _blur(size: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    """Choose the side of the blur's kernel, and the least and greatest sigma."""
    scale = min(size) / _REFERENCE_PX
    low, high = (sigma * scale for sigma in _BLUR_SIGMA)
    # Two sigmas to each side hold 95 % of the weight.
    return 2 * math.ceil(2 * high) + 1, (low, high)
