"""Every mode, orientation and animation gives the pixels that a viewer shows."""

import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from transformers import BlipImageProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from raycap.config import ImageConfig
from raycap.images.decoding import Target, decode

CONFIG = ImageConfig()
SMALL = Target(width_px=8, height_px=6, resample="nearest")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def shown(data: bytes, target: Target = SMALL) -> np.ndarray:
    return decode(data, target, CONFIG).pixels.astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(scene(90, 60), kind, exif=exif, **options)
    image = decode(data, Target(width_px=30, height_px=45), CONFIG)
    stored = Image.open(BytesIO(data))
    stored.load()  # Pillow turns TIFF by itself while it loads
    upright = ImageOps.exif_transpose(stored).convert("RGB")
    expected = np.asarray(upright.resize((30, 45), Image.Resampling.BICUBIC), dtype=int)
    assert (image.width_px, image.height_px) == upright.size
    assert (image.pixels == expected).all()


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    source = scene(8, 6)
    assert (shown(encode(source, "PNG", exif=exif)) == np.asarray(source)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_on_white(mode: str) -> None:
    source = Image.new("RGBA", (8, 6), (40, 40, 40, 0))
    source.paste((40, 40, 40, 255), (0, 0, 4, 6))
    source.putpixel((0, 0), (40, 40, 40, 128))
    pixels = shown(encode(source.convert(mode), "PNG"))
    assert (pixels[:, 4:] == 255).all()
    assert (pixels[1:, :4] == 40).all()
    assert abs(pixels[0, 0, 0] - 147) <= 1


@pytest.mark.parametrize(("mode", "levels"), [("LA", (100, 128)), ("RGBA", (100, 60, 0, 128))])
def test_premultiplied_alpha_lies_on_white(mode: str, levels: tuple[int, ...]) -> None:
    data = encode(Image.new(mode, (8, 6), levels), "TIFF")
    # Pillow reads but does not write it: the TIFF's ExtraSamples tag goes from 2 to 1.
    tag = struct.pack("<HHIH", 338, 3, 1, 2)
    assert data.count(tag) == 1
    pixels = shown(data.replace(tag, struct.pack("<HHIH", 338, 3, 1, 1)))
    colour = levels[:-1] if mode == "RGBA" else levels[:1] * 3
    assert np.abs(pixels - [level + 127 for level in colour]).max() <= 1


def two_colours(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, (8, 6), left)
    image.paste(right, (4, 0, 8, 6))
    return image


@pytest.mark.parametrize(
    ("kind", "mode", "left", "right"),
    [
        ("PNG", "RGB", (1, 2, 3), (9, 9, 9)),
        *(("PNG", "L", 0, 200), ("PNG", "P", 0, 1), ("PNG", "1", 0, 1)),
        *(("GIF", "L", 0, 200), ("GIF", "P", 0, 1)),
    ],
)
def test_transparent_colour_lies_on_white(kind: str, mode: str, left: Any, right: Any) -> None:
    source = two_colours(mode, left, right)
    if mode == "P":
        source.putpalette([10, 20, 30, 200, 0, 0])
    pixels = shown(encode(source, kind, transparency=right))
    assert (pixels[:, 4:] == 255).all()
    assert pixels[:, :4].max() <= 30


def test_palette_with_alpha_of_each_colour_lies_on_white() -> None:
    source = two_colours("P", 0, 1)
    source.putpalette([10, 20, 30, 200, 0, 0])
    pixels = shown(encode(source, "PNG", transparency=b"\xff\x80"))
    assert (pixels[0, 0] == [10, 20, 30]).all()
    assert np.abs(pixels[0, 7] - [227, 127, 127]).max() <= 1


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")])
def test_other_colour_spaces_become_rgb(mode: str, kind: str) -> None:
    # Pillow writes CMYK JPEGs inverted, with Adobe's marker, as Photoshop does.
    source = two_colours("RGB", (200, 60, 30), (20, 90, 160))
    pixels = shown(encode(source.convert(mode), kind))
    assert np.abs(pixels - np.asarray(source)).max() <= 12


def test_lab_becomes_rgb() -> None:
    grey = Image.new("LAB", (8, 6), (128, 128, 128))
    pixels = shown(encode(grey, "TIFF"))
    assert np.abs(pixels - 119).max() <= 3  # L* = 50 is sRGB 119


def test_palette_is_resampled_as_colours() -> None:
    source = two_colours("P", 0, 1)
    source.putpalette([0, 0, 0, 200, 100, 50])
    pixels = shown(encode(source, "PNG"), Target(width_px=1, height_px=1, resample="box"))
    assert pixels.tolist() == [[[100, 50, 25]]]


def test_palette_inside_an_icon_is_kept() -> None:
    source = Image.new("P", (16, 16), 1)
    source.putpalette([0, 0, 0, 200, 100, 50])
    assert (shown(encode(source, "ICNS")) == [200, 100, 50]).all()


def test_one_bit_image_is_resampled_as_grey() -> None:
    pixels = shown(encode(two_colours("1", 0, 1), "PNG"), Target(width_px=1, height_px=1))
    assert 126 <= pixels.min() <= pixels.max() <= 129


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_gradient_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65_535, 48, dtype=np.uint16).reshape(6, 8)
    pixels = shown(encode(Image.fromarray(values), kind))
    assert np.abs(pixels[..., 0] - values / 256).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("most", "divisor"), [(255, 1), (1_023, 4), (4_095, 16), (16_000, 256)])
def test_fewer_bits_stored_in_sixteen_are_not_black(kind: str, most: int, divisor: int) -> None:
    values = np.linspace(0, most, 48).astype(np.uint16).reshape(6, 8)
    pixels = shown(encode(Image.fromarray(values), kind))
    assert np.abs(pixels[..., 0] - values / divisor).max() <= 1


def png_of(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colour, which Pillow cannot write."""
    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff_of(values: np.ndarray, order: str = "<", *, is_compressed: bool = False) -> bytes:
    """A TIFF of 16-bit colour, in one strip."""
    height, width, channels = values.shape
    body = values.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if is_compressed else body
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8 + len(body))),
        *((259, 4, 1, 8 if is_compressed else 1), (262, 4, 1, 2), (273, 4, 1, 8)),
        *((277, 4, 1, channels), (278, 4, 1, height), (279, 4, 1, len(body)), (284, 4, 1, 1)),
        *([(338, 4, 1, 2)] if channels == 4 else []),
    ]
    place = 8 + len(body) + len(bits)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, place)
    table = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    return head + body + bits + struct.pack(f"{order}H", len(tags)) + table + bytes(4)


DEEP: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG": png_of,
    "TIFF": tiff_of,
    "TIFF, other byte order": partial(tiff_of, order=">"),
    "TIFF, compressed": partial(tiff_of, is_compressed=True),
    "TIFF, compressed, other byte order": partial(tiff_of, order=">", is_compressed=True),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize(("most", "divisor"), [(255, 1), (1_023, 4), (4_095, 16), (16_000, 256)])
def test_colour_of_fewer_bits_stored_in_sixteen_is_not_black(
    kind: str, most: int, divisor: int
) -> None:
    values = np.random.default_rng(most).integers(0, most + 1, (6, 8, 3)).astype(np.uint16)
    values[0, 0] = most
    assert np.array_equal(shown(DEEP[kind](values)), values // divisor)


@pytest.mark.parametrize("kind", DEEP)
def test_transparency_of_dark_colour_in_sixteen_bits_is_kept(kind: str) -> None:
    values = np.full((6, 8, 4), 4_095, dtype=np.uint16)
    values[..., 3] = 65_535
    values[:, :4, 3] = 0
    pixels = shown(DEEP[kind](values // [2, 1, 1, 1]))
    assert (pixels[:, :4] == 255).all()  # on white
    assert (pixels[:, 4:] == [127, 255, 255]).all()


def test_dark_sixteen_bit_pgm_stays_dark() -> None:
    values = np.full((6, 8), 200, dtype=np.uint16)
    assert shown(encode(Image.fromarray(values), "PPM")).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25_600.0, 65_535.0], [0, 100, 255]),
        ([-1e38, 0.0, 1e38], [0, 128, 255]),
        ([-7.0, -7.0, -7.0], [255, 255, 255]),
        ([np.nan, 0.0, np.inf], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_float_image_is_scaled_by_its_range(values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    pixels = shown(data, Target(width_px=3, height_px=1, resample="nearest"))
    assert pixels[0, :, 0].tolist() == expected


def test_signalling_nan_is_black() -> None:
    values = np.array([[0x7F800001, 0, 0x3F800000]], dtype=np.uint32).view(np.float32)
    pixels = shown(encode(Image.fromarray(values), "TIFF"), Target(width_px=3, height_px=1))
    assert pixels[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 255], [0, 1, 255]), ([0, 256, 65_535], [0, 1, 255]), ([-2, 0, 2], [0, 128, 255])],
)
def test_integer_image_is_scaled_by_its_range(values: list[int], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
    pixels = shown(data, Target(width_px=3, height_px=1, resample="nearest"))
    assert pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    pixels = shown(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels - [255, 0, 0]).max() <= 4


def test_damage_after_the_first_frame_does_not_matter() -> None:
    first, second = scene(60, 60), scene(60, 60).rotate(90)
    data = encode(first, "GIF", save_all=True, append_images=[second])
    alone = encode(first, "GIF")
    target = Target(width_px=9, height_px=9)
    cut = shown(data[: len(alone) + 40], target)
    assert (cut == shown(data, target)).all()


def test_pixels_are_uint8_rows_columns_rgb() -> None:
    image = decode(encode(scene(50, 40), "JPEG"), Target(width_px=30, height_px=20), CONFIG)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (20, 30, 3)
    assert image.pixels.flags["C_CONTIGUOUS"]


SOURCES: dict[str, Callable[[], bytes]] = {
    "photo": lambda: encode(scene(640, 427), "JPEG"),
    "upright": lambda: encode(scene(300, 500), "PNG"),
    "tiny": lambda: encode(scene(7, 5), "PNG"),
    "grey": lambda: encode(scene(640, 480).convert("L"), "JPEG"),
    "cmyk": lambda: encode(scene(200, 300).convert("CMYK"), "JPEG"),
    "palette": lambda: encode(scene(320, 200).convert("P"), "PNG"),
    "alpha": lambda: encode(translucent(), "PNG"),
}


PHOTOS = os.environ.get("RAYCAP_REAL_PHOTOS")
for photo in sorted(Path(PHOTOS, "images").glob("*.jpg"))[:40] if PHOTOS else []:
    SOURCES[photo.stem] = photo.read_bytes


def translucent() -> Image.Image:
    image = scene(400, 300)
    image.putalpha(scene(400, 300).convert("L").rotate(180))
    return image


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("processor", "worst", "mean"),
    # Torchvision rounds otherwise, and cuts off overshoot along rows first where Pillow 13 cuts
    # it along columns: single pixels of upright photos differ by up to 11 levels.
    [(BlipImageProcessorPil(), 0.0, 0.0), (BlipImageProcessor(), 12.0, 0.3)],
)
def test_pixels_equal_those_of_the_models_own_processor(
    processor: Any, worst: float, mean: float, source: str
) -> None:
    data = SOURCES[source]()
    pixels = decode(data, Target(width_px=384, height_px=384), CONFIG).pixels
    reference = processor(Image.open(BytesIO(data)), return_tensors="np")["pixel_values"][0]
    levels = reference.transpose(1, 2, 0) * processor.image_std + processor.image_mean
    difference = np.abs(pixels - levels * 255)
    assert difference.max() <= worst + 1e-3  # the processor's own float32 arithmetic
    assert np.quantile(difference, 0.999) <= 1 + 1e-3
    assert difference.mean() <= mean + 1e-3
