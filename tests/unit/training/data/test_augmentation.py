"""Augmentation: every change has an effect, depends on the seed only, and can be disabled."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image

from raycap.config import AugmentConfig
from raycap.images.decoding import Target
from raycap.training.data.augmentation import Augmentation, picture_grid

TARGET = Target(width_px=48, height_px=32)
OFF: dict[str, Any] = {"blur": 0, "crop_scale": 1, "flip": 0, "colour": 0, "jpeg": 0, "erase": 0}


def make(**settings: Any) -> Augmentation:
    return Augmentation(AugmentConfig.model_validate({**OFF, **settings}), TARGET)


def picture(augmentation: Augmentation) -> UInt8[np.ndarray, "h w 3"]:
    """An image of the source size: dark red left, light blue right, with fine stripes."""
    size = (augmentation.source.height_px, augmentation.source.width_px)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = (120, 20, 20)
    pixels[:, size[1] // 2 :] = (150, 170, 220)
    pixels[::2] //= 2
    return pixels


def as_is(pixels: UInt8[np.ndarray, "h w 3"]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


CHANGES = [
    {"crop_scale": 0.3},
    {"flip": 1.0},
    {"colour": 0.5},
    {"jpeg": 1.0},
    {"erase": 1.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_each_change_has_an_effect_and_repeats_for_the_same_seed(change: dict[str, Any]) -> None:
    augmentation = make(**change)
    pixels = picture(augmentation)
    changed = [augmentation(pixels, seed) for seed in range(4)]
    again = [make(**change)(pixels, seed) for seed in range(4)]
    for first, second in zip(changed, again, strict=True):
        assert torch.equal(first, second)
        assert first.shape == (3, 32, 48)
        assert first.dtype == torch.uint8
    if augmentation.source == TARGET:
        assert not torch.equal(changed[0], as_is(pixels))
    if "flip" not in change:  # which is certain here
        assert not torch.equal(changed[0], changed[1])


@pytest.mark.parametrize("settings", [OFF, {"enabled": False, "blur": 1.0, "crop_scale": 0.1}])
def test_without_any_change_an_image_is_unchanged(settings: dict[str, Any]) -> None:
    augmentation = make(**settings)
    assert augmentation.source == TARGET
    pixels = picture(augmentation)
    assert torch.equal(augmentation(pixels, 5), as_is(pixels))


def test_flipping_is_off_by_default_and_mirrors_if_enabled() -> None:
    assert AugmentConfig().flip == 0
    augmentation = make(flip=1.0)
    pixels = picture(augmentation)
    assert torch.equal(augmentation(pixels, 0), as_is(pixels).flip(-1))


def test_a_blur_weakens_fine_stripes() -> None:
    target = Target(width_px=224, height_px=224)
    augmentation = Augmentation(AugmentConfig.model_validate({**OFF, "blur": 1.0}), target)
    pixels = picture(augmentation)
    sharp = as_is(pixels).float().diff(dim=1).abs().mean()
    left = [augmentation(pixels, s).float().diff(dim=1).abs().mean() / sharp for s in range(20)]
    assert min(left) < 0.1
    assert 0.5 < max(left) <= 1
    assert torch.equal(augmentation(pixels, 3), augmentation(pixels, 3))


def test_a_crop_is_decoded_larger_so_that_it_is_not_enlarged() -> None:
    assert make(crop_scale=0.8).source.width_px == 54
    assert make(crop_scale=0.01).source.width_px == 96  # at the most twice
    augmentation = make(crop_scale=0.25)
    whole = as_is(picture(augmentation)).float().mean()
    means = [augmentation(picture(augmentation), seed).float().mean() for seed in range(10)]
    assert min(means) < whole < max(means)  # dark at the left, light at the right


def test_erasing_blacks_out_a_part() -> None:
    augmentation = make(erase=1.0)
    erased = augmentation(picture(augmentation), 3)
    black = (erased == 0).all(dim=0).float().mean()
    assert 0.01 < black < 0.3


def test_probabilities_are_kept() -> None:
    augmentation = make(jpeg=0.3)
    pixels = picture(augmentation)
    changed = [not torch.equal(augmentation(pixels, seed), as_is(pixels)) for seed in range(200)]
    assert 0.2 < np.mean(changed) < 0.4


def test_torchs_global_random_state_is_unchanged() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    augmentation = make(colour=0.5, blur=1.0)
    augmentation(picture(augmentation), 99)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "nearest", "lanczos", "box"])
def test_every_way_to_resample_can_be_cropped(resample: str) -> None:
    target = Target(width_px=48, height_px=32, resample=resample)
    augmentation = Augmentation(AugmentConfig.model_validate({**OFF, "crop_scale": 0.5}), target)
    assert augmentation(picture(augmentation), 0).shape == (3, 32, 48)


def test_the_preview_lays_images_out_in_rows_and_columns() -> None:
    red, blue = (np.full((3, 20, 30), 0, np.uint8) for _ in range(2))
    red[0], blue[2] = 255, 255
    sheet = Image.open(BytesIO(picture_grid([[red, blue, red], [blue]])))
    assert sheet.size == (3 * 34 + 4, 2 * 24 + 4)
    assert sheet.getpixel((19, 14))[0] > 200  # type: ignore[index]
    assert sheet.getpixel((53, 14))[2] > 200  # type: ignore[index]
    assert min(sheet.getpixel((90, 40))) > 240  # type: ignore[arg-type]
