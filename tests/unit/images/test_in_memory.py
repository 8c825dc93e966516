"""Images in memory are decoded as the files that they were read from."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raycap.config import ImageConfig
from raycap.errors import ConfigError, ErrorCode, ImageError
from raycap.images.decoding import Target, decode
from raycap.images.in_memory import file_of

TARGET = Target(width_px=17, height_px=13)
COLOURS = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)


def decoded(data: bytes) -> list[Any]:
    pixels: list[Any] = decode(data, TARGET, ImageConfig()).pixels.tolist()
    return pixels


def png(image: Image.Image, **settings: Any) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG", **settings)
    return sink.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_image_of_any_mode_is_what_its_file_is(mode: str) -> None:
    image = Image.fromarray(COLOURS)
    if mode == "I;16":
        image = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    elif mode.endswith("A"):
        image.putalpha(Image.fromarray(COLOURS[..., 1]))
    file = png(image if image.mode == mode else image.convert(mode))
    assert decoded(file_of(Image.open(BytesIO(file)))) == decoded(file)


def test_a_transparent_colour_and_a_transparent_palette_are_white() -> None:
    plain, palette = Image.new("RGB", (9, 9), (1, 2, 3)), Image.new("P", (9, 9), 0)
    for image, clear in ((plain, (1, 2, 3)), (palette, 0)):
        file = png(image, transparency=clear)
        assert decoded(file_of(Image.open(BytesIO(file)))) == decoded(file)
        assert np.unique(decoded(file)).tolist() == [255]


def test_an_image_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = BytesIO()
    Image.fromarray(COLOURS).save(sink, "TIFF", exif=exif, compression="tiff_deflate")
    file = png(Image.fromarray(COLOURS), exif=exif)
    assert decoded(file_of(Image.open(BytesIO(file)))) == decoded(file)
    assert decoded(file_of(Image.open(BytesIO(sink.getvalue())))) == decoded(sink.getvalue())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_array_is_what_its_image_is(mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    array = np.asarray(image)
    assert decoded(file_of(array)) == decoded(png(image))
    assert decoded(file_of(array[::-1, ::2])) == decoded(file_of(array[::-1, ::2].copy()))
    if mode == "L":
        assert decoded(file_of(array[..., None])) == decoded(png(image))


@pytest.mark.parametrize(
    "image",
    [
        COLOURS / np.float32(255),
        COLOURS.astype(np.uint16),
        COLOURS.transpose(2, 0, 1),
        COLOURS[None],
        COLOURS[:0],
        COLOURS[0, 0],
        5,
        ["a list"],
    ],
    ids=["float", "uint16", "channels first", "batch", "empty", "a pixel", "a number", "a list"],
)
def test_anything_else_is_refused(image: object) -> None:
    with pytest.raises(ConfigError) as found:
        file_of(image)
    assert found.value.setting == "images"
    assert "\n" not in str(found.value)


def test_an_image_whose_file_is_cut_fails(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(png(Image.fromarray(COLOURS))[:-900])
    with Image.open(path) as image, pytest.raises(ImageError) as found:
        file_of(image)
    assert found.value.code is ErrorCode.DECODE_FAILED
