"""Large JPEGs are decoded at a reduced scale: how far that is from decoding them in full.

`RAYCAP_REAL_PHOTOS` names a folder whose `images/` holds photos; without it those tests skip.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from raycap.config import ImageConfig
from raycap.images.decoding import DRAFT_MARGIN, Target, decode

CONFIG = ImageConfig()
TARGET = Target(width_px=96, height_px=96)
ROWS, COLUMNS = np.mgrid[0:900, 0:1201]


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def difference(data: bytes, target: Target = TARGET) -> np.ndarray:
    """Levels between decoding as we do and in full, `[H, W, 3]`."""
    full = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    full = full.resize((target.width_px, target.height_px), Image.Resampling.BICUBIC)
    levels: np.ndarray = np.abs(decode(data, target, CONFIG).pixels - np.asarray(full, dtype=float))
    return levels


def generated(name: str) -> Image.Image:
    if name == "noise":
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1201, 3), np.uint8))
    if name == "checkers":
        return Image.fromarray(((ROWS // 7 + COLUMNS // 7) % 2 * 255).astype(np.uint8))
    if name == "waves":
        waves = [np.sin((ROWS**2 + COLUMNS**2) / 2e4), np.sin(ROWS * COLUMNS / 9e3), ROWS * 0]
        return Image.fromarray((127 + 127 * np.stack(waves, -1)).astype(np.uint8))
    return Image.fromarray((ROWS * 0.14 + COLUMNS * 0.1).astype(np.uint8))


@pytest.mark.parametrize("name", ["noise", "checkers", "waves", "gradient"])
@pytest.mark.parametrize("options", [{"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_generated_jpegs_stay_close_to_full_decoding(name: str, options: dict[str, Any]) -> None:
    error = difference(encode(generated(name), **options))
    assert 0 < error.mean() <= 3  # above 0: the reduced path was taken
    assert np.quantile(error, 0.999) <= 16
    assert error.max() <= 32


def test_edge_of_a_size_that_no_scale_divides_is_not_shifted() -> None:
    error = difference(encode(generated("gradient").crop((0, 0, 1193, 777)), quality=95))
    assert error.mean() <= 0.2
    assert error[:, -1].max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpeg_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(generated("gradient").crop((0, 0, 1193, 777)), quality=95, exif=exif)
    assert difference(data, Target(width_px=96, height_px=60)).max() <= 2
    image = decode(data, TARGET, CONFIG)
    assert (image.width_px, image.height_px) == ((1193, 777) if orientation < 5 else (777, 1193))


@pytest.mark.parametrize(("excess", "is_reduced"), [(-1, False), (0, True)])
def test_jpeg_is_reduced_only_while_it_stays_twice_the_target(
    excess: int, is_reduced: bool
) -> None:
    side = 2 * DRAFT_MARGIN * TARGET.width_px + excess
    error = difference(encode(generated("noise").crop((0, 0, 1000, side))))
    assert (error.max() > 0) == is_reduced


def test_size_told_is_that_of_the_whole_image() -> None:
    image = decode(encode(generated("gradient")), TARGET, CONFIG)
    assert (image.width_px, image.height_px) == (1201, 900)


def real_photos() -> list[Path]:
    folder = os.environ.get("RAYCAP_REAL_PHOTOS")
    return sorted(Path(folder, "images").glob("*.jpg")) if folder else []


def mosaic(photos: list[Path]) -> bytes:
    """Tile 16 photos to 2,560 x 1,920 pixels with detail everywhere."""
    canvas = Image.new("RGB", (2560, 1920))
    for place, photo in enumerate(photos[:16]):
        with Image.open(photo) as image:
            tile = image.convert("RGB").resize((640, 480))
        canvas.paste(tile, (place % 4 * 640, place // 4 * 480))
    return encode(canvas, quality=90)


@pytest.mark.skipif(not real_photos(), reason="RAYCAP_REAL_PHOTOS names no folder of photos")
@pytest.mark.parametrize("side", [48, 96])
def test_real_photos_stay_close_to_full_decoding(side: int) -> None:
    target = Target(width_px=side, height_px=side)
    errors = [difference(photo.read_bytes(), target) for photo in real_photos()]
    assert np.mean([error.mean() for error in errors]) <= 0.5
    assert max(error.mean() for error in errors) <= 1.3
    assert max(np.quantile(error, 0.999) for error in errors) <= 12


@pytest.mark.skipif(len(real_photos()) < 16, reason="RAYCAP_REAL_PHOTOS names too few photos")
def test_large_real_photo_stays_close_to_full_decoding() -> None:
    error = difference(mosaic(real_photos()), Target(width_px=384, height_px=384))
    assert 0 < error.mean() <= 0.7
    assert np.quantile(error, 0.999) <= 8
    assert error.max() <= 32
