"""How images are fitted to a model: `image.fit` and `image.max_pixels_model`. Imports no torch."""

from dataclasses import replace
from math import isqrt
from pathlib import Path

from raycap.config import FittedImageConfig
from raycap.errors import ConfigError
from raycap.images.decoding import Target
from raycap.images.grids import Grid
from raycap.models.base import ModelSource
from raycap.models.folders import mean_colour
from raycap.models.kinds import find_kind

DEFAULT_MAX_PIXELS = 2**20
"""Pixels of an image without `image.max_pixels_model`: 1,337 tokens of Qwen2.5-VL, or four tiles of
SmolVLM."""

_GREY = (128, 128, 128)


def fit_images(
    source: ModelSource, image: FittedImageConfig, section: str = "image"
) -> ModelSource:
    """Return the model with the target that the settings ask for.

    Args:
        source: The model as it was found.
        image: The settings.
        section: Where they were set, for messages.

    Raises:
        ConfigError: the model accepts only one size of images, or no image as small as that.
    """
    max_pixels = image.max_pixels_model
    # The images of a server keep their aspect ratio by themselves.
    fit = "keep" if image.fit == "model" and source.target.varies else image.fit
    if fit == "model":
        if max_pixels is not None:
            raise ConfigError(
                f"{section}.max_pixels_model: with {section}.fit=model, the model decides: set "
                f"{section}.fit=keep, or leave it out",
                setting=f"{section}.max_pixels_model",
            )
        return source
    target = source.target
    if fit == "keep" or max_pixels is not None:
        grid = _grid(source, max_pixels or DEFAULT_MAX_PIXELS, fit, section)
        target = _typical(grid, target)
    if fit == "square":
        target = replace(
            target, padding=_colour(source), grid=None if max_pixels is None else target.grid
        )
    return replace(source, target=target)


def _grid(source: ModelSource, max_pixels: int, fit: str, section: str) -> Grid:
    grid = find_kind(source.kind).grid(source, max_pixels)
    if grid is None:
        size = f"{source.target.width_px}x{source.target.height_px}"
        name, remedy = "max_pixels_model", "leave it out"
        if fit == "keep":
            name, remedy = "fit", f"set {section}.fit=square, or leave it out"
        raise ConfigError(
            f"{section}.{name}: {source.name} accepts images of {size} pixels only: {remedy}",
            setting=f"{section}.{name}",
        )
    if grid.max_pixels > max_pixels:
        raise ConfigError(
            f"{section}.max_pixels_model: {source.name} enlarges images to {grid.max_pixels:,} "
            f"pixels, more than {max_pixels:,}: set at least that",
            setting=f"{section}.max_pixels_model",
        )
    return grid


def _typical(grid: Grid, target: Target) -> Target:
    """Return the target of a grid, whose typical image is the largest square."""
    side_px = isqrt(grid.max_pixels)
    width_px, height_px = grid.size_of(side_px, side_px)
    return replace(target, width_px=width_px, height_px=height_px, grid=grid)


def _colour(source: ModelSource) -> tuple[int, int, int]:
    """Return the colour that the model's processor turns into zeros."""
    return _GREY if source.folder is None else mean_colour(Path(source.folder))
