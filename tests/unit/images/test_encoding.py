"""Image files for servers: what is passed through, what is scaled and written anew."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from raycap.config import ImageConfig
from raycap.images.decoding import DecodedImage, decode
from raycap.images.encoding import encode, media_type, target_within

CONFIG = ImageConfig()
WIDTH, HEIGHT = 96, 64
ORIENTATION = 0x0112


def scene(mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT)).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def decoded(data: bytes, max_pixels: int = WIDTH * HEIGHT) -> DecodedImage:
    return decode(data, target_within(max_pixels), CONFIG)


def turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return saved(scene(), "JPEG", exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_file_that_fits_is_passed_through(kind: str, mode: str) -> None:
    data = saved(scene(mode), kind)
    assert encode(decoded(data), data) is data
    assert media_type(data) == f"image/{kind.lower()}"


def located() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)}
    return saved(scene(), "JPEG", exif=exif)


REWRITTEN: dict[str, Callable[[], bytes]] = {
    "bmp": lambda: saved(scene(), "BMP"),
    "gif": lambda: saved(scene(), "GIF"),
    "turned by EXIF": turned,
    "located by EXIF": located,
    "located by XMP": lambda: saved(
        scene(), "JPEG", xmp=b'<rdf exif:GPSLatitude="48,51.5N" exif:GPSLongitude="2,17.6E"/>'
    ),
    "transparent": lambda: saved(scene("RGBA"), "PNG"),
    "palette": lambda: saved(scene("P"), "PNG"),
    "cmyk": lambda: saved(scene("CMYK"), "JPEG"),
    "16 bits": lambda: saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
    "animated": lambda: saved(
        scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)], duration=9
    ),
    "without its end": lambda: saved(scene(), "JPEG")[:-2],
    "long tail": lambda: saved(scene(), "JPEG") + bytes(3 * WIDTH * HEIGHT),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_other_files_are_written_anew_with_the_same_pixels(case: str) -> None:
    data = REWRITTEN[case]()
    image = decoded(data)
    file = encode(image, data, "png")
    assert media_type(file) == "image/png"
    with Image.open(BytesIO(file)) as read:
        assert np.array_equal(np.asarray(read), image.pixels)
        assert not read.getexif()


def test_a_larger_image_is_scaled_to_the_budget_and_keeps_its_aspect_ratio() -> None:
    data = turned()
    image = decoded(data, WIDTH * HEIGHT // 4)
    assert (image.width_px, image.height_px) == (HEIGHT, WIDTH)
    assert image.pixels.shape == (WIDTH // 2, HEIGHT // 2, 3)
    good, poor = encode(image, data), encode(image, data, quality=20)
    assert len(poor) < len(good)
    assert {media_type(good), media_type(poor)} == {"image/jpeg"}
    with Image.open(BytesIO(good)) as read:
        difference = np.asarray(read).astype(int) - image.pixels
    assert abs(difference).mean() < 5
