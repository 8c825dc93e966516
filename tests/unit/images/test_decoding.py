"""What is accepted, what is refused, and that nothing but ImageError comes out."""

import logging
import re
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.decoding import UNREAD_FORMATS, Target, decode, prepare_process
from raycap.images.other_files import register_heif

CONFIG = ImageConfig()
TARGET = Target(width_px=40, height_px=32)

Image.init()
READABLE = sorted((set(Image.SAVE) & (set(Image.OPEN) | {"MPO"})) - UNREAD_FORMATS)
CUT = ["JPEG", "PNG", "GIF", "WEBP", "TIFF"]


@pytest.fixture
def prepared() -> Iterator[None]:
    limit, level = Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level
    prepare_process(CONFIG)
    yield
    Image.MAX_IMAGE_PIXELS = limit
    logging.getLogger("PIL").setLevel(level)


def scene(width: int = 120, height: int = 90) -> Image.Image:
    """A smooth picture: every lossy format keeps it well."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_in_a_mode_it_takes(kind: str) -> tuple[bytes, Image.Image]:
    for mode in ("F",) if kind == "SPIDER" else ("RGB", "P", "1"):
        image = scene().convert(mode)
        try:
            return encode(image, kind), image.convert("RGB")
        except (OSError, ValueError):
            continue
    raise AssertionError(f"{kind} takes no mode")


def png(width: int, height: int, body: bytes = b"\0") -> bytes:
    """A tiny file whose header declares any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


def refusal(data: bytes, config: ImageConfig = CONFIG) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, TARGET, config)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250
    return caught.value


def decode_if_possible(data: bytes) -> None:
    """Fail on anything but an image or an ImageError."""
    with suppress(ImageError):
        image = decode(data, TARGET, ImageConfig(max_pixels=1_000_000))
        assert image.pixels.shape == (32, 40, 3)


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
@pytest.mark.parametrize("kind", READABLE)
def test_every_format_that_pillow_writes_is_read(kind: str) -> None:
    data, source = encode_in_a_mode_it_takes(kind)
    image = decode(data, TARGET, CONFIG)
    expected = np.asarray(source.resize((40, 32), Image.Resampling.BICUBIC), dtype=float)
    # ICO stores at most 64 pixels a side, in steps; BLP and GIF have 256 colours.
    assert np.abs(image.pixels - expected).mean() < 5
    if kind not in ("ICO", "ICNS"):  # icons have sizes of their own
        assert (image.width_px, image.height_px) == (120, 90)


def test_the_common_formats_are_among_those_tested() -> None:
    assert {"JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"} <= set(READABLE)


def test_stubs_and_formats_that_run_programs_are_not_read() -> None:
    factories = {name: factory for name, (factory, _) in Image.OPEN.items()}
    stubs = {
        name
        for name, factory in factories.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    assert stubs | {"EPS"} <= UNREAD_FORMATS


def test_postscript_is_unsupported_and_ghostscript_not_started() -> None:
    assert refusal(encode(scene(), "EPS")).code is ErrorCode.UNSUPPORTED_FORMAT


def test_empty_file_is_empty() -> None:
    assert str(refusal(b"")) == "empty: 0 bytes"


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>\n<html></html>", b"x", b"\0" * 99, b"%PDF-1.4"])
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    error = refusal(data)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("prefix", [b"", b"P3 ", b"P6\n", b"BM", b"\n", b"GIF89a", b"II*\0"])
def test_nothing_of_the_content_of_another_file_is_shown(prefix: bytes) -> None:
    secret = b"root:$6$aBcDeF:19000:0:99999:7:::\ndaemon:*:19000:\n" * 20
    message = refusal(prefix + secret).message
    assert not any(word in message for word in ("root", "$6$", "aBc", "19000", "daemon"))


def pixels_of(data: bytes) -> np.ndarray:
    return decode(data, TARGET, CONFIG).pixels


def test_heif_is_read_with_its_extra_or_the_extra_is_named() -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    if find_spec("pillow_heif") is None:
        error = refusal(head)
        assert error.code is ErrorCode.UNSUPPORTED_FORMAT
        assert "raycap[heif]" in error.message
        return
    register_heif()
    found = pixels_of(encode(scene(), "HEIF"))
    assert np.abs(found.astype(int) - pixels_of(encode(scene(), "PNG")).astype(int)).mean() < 8
    assert refusal(head).code is ErrorCode.DECODE_FAILED


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("end", [b"", b"\xff"])
def test_a_jpeg_that_lacks_only_its_end_is_whole(options: dict[str, bool], end: bytes) -> None:
    data = encode(scene(), "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    assert np.array_equal(pixels_of(data[:-2] + end), pixels_of(data))
    for num_bytes in (4, 6, 10, 50, len(data) // 2):
        assert refusal(data[:-num_bytes] + end).code is ErrorCode.DECODE_FAILED


def test_format_that_this_pillow_was_built_without_is_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factory, _ = Image.OPEN["WEBP"]
    monkeypatch.setitem(Image.OPEN, "WEBP", (factory, lambda _: "WEBP support not installed"))
    assert refusal(encode(scene(), "WEBP")).code is ErrorCode.UNSUPPORTED_FORMAT


def test_known_signature_with_garbage_behind_it_is_a_decode_error() -> None:
    error = refusal(b"\xff\xd8\xff\xe0" + b"garbage" * 9)
    assert error.code is ErrorCode.DECODE_FAILED
    assert error.message.startswith("JPEG: ")


def test_truncated_image_of_a_format_without_signature_is_a_decode_error() -> None:
    assert refusal(encode(scene(), "TGA")[:500]).message.startswith("TGA: ")


def test_corrupt_image_gives_the_same_message_every_time() -> None:
    told = {str(refusal(b"\x0c")) for _ in range(3)}  # without a buffer's address
    assert len(told) == 1
    assert told.pop().startswith("decode_failed: DIB: ")


def test_file_over_the_byte_limit_is_too_large() -> None:
    error = refusal(bytes(2000), ImageConfig(max_bytes=1999))
    assert error.code is ErrorCode.TOO_LARGE
    assert re.search(r"2,000 bytes.*image\.max_bytes=1,999", error.message)


def test_file_at_the_limits_is_read() -> None:
    data = encode(scene(), "PNG")
    decode(data, TARGET, ImageConfig(max_bytes=len(data), max_pixels=120 * 90))


def test_image_over_the_pixel_limit_is_too_large_before_any_pixel_is_decoded() -> None:
    undecodable = png(600, 400)
    assert refusal(undecodable).code is ErrorCode.DECODE_FAILED
    error = refusal(undecodable, ImageConfig(max_pixels=239_999))
    assert error.code is ErrorCode.TOO_LARGE
    assert re.search(r"600x400 = 240,000 pixels.*image\.max_pixels=239,999", error.message)


# Pillow warns of 144 million pixels (an exception under pytest) and raises from 179 million on.
@pytest.mark.parametrize("side", [12_000, 15_000, 50_000])
def test_decompression_bomb_is_too_large_in_an_unprepared_process(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pillow's own: another test may have prepared this process.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024**3 // 4 // 3)
    error = refusal(png(side, side))
    assert error.code is ErrorCode.TOO_LARGE
    assert "image.max_pixels=178,956,970" in error.message


@pytest.mark.usefixtures("prepared")
def test_prepared_process_uses_the_configured_limit_without_warnings() -> None:
    error = refusal(png(15_000, 15_000))
    assert error.message.startswith("15000x15000 = 225,000,000 pixels")
    assert refusal(png(50_000, 50_000)).code is ErrorCode.TOO_LARGE
    assert CONFIG.max_pixels == Image.MAX_IMAGE_PIXELS
    # Pillow logs an error for each TIFF of more bands than it knows.
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.ERROR)


def test_decode_leaves_global_state_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    decode(encode(scene(), "PNG"), TARGET, ImageConfig(max_pixels=50_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("kind", CUT)
def test_truncated_image_becomes_a_decode_error_or_an_image(kind: str) -> None:
    data = encode(scene(), kind)
    for sixteenth in range(1, 16):
        decode_if_possible(data[: len(data) * sixteenth // 16])


@pytest.mark.parametrize("kind", CUT)
def test_half_an_image_becomes_a_decode_error(kind: str) -> None:
    data = encode(scene(), kind)
    error = refusal(data[: len(data) // 2])
    assert error.code is ErrorCode.DECODE_FAILED
    assert error.message.startswith(f"{kind}: ")


SIGNATURES = [
    *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8 "),
    *(b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"BM", b"P5 9 9 255 ", b"8BPS\0\1", b"icns", b"qoif"),
    *(b"\0\0\1\0\1\0", b"DDS |\0\0\0", b"SIMPLE", b"\0\0\0\x0cjP  \r\n\x87\n", b"\x1c\x03"),
    *(b"\0\0\0\x1cftypavif", b"BLP2", b"#define", b"/* XPM */", b"\x0a\5\1\x08"),
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_random_bytes_raise_nothing_but_image_errors(start: bytes, rest: bytes) -> None:
    decode_if_possible(start + rest)


SOUND = [encode(scene(24, 20), kind) for kind in READABLE if kind in {*CUT, "BMP", "PCX", "TGA"}]


@given(st.sampled_from(SOUND), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_images_raise_nothing_but_image_errors(sound: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(sound)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(sound) - 1))] = draw.draw(st.integers(0, 255))
    decode_if_possible(bytes(damaged))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Forbid the process to grow by more than 500 MB."""
    if sys.platform != "linux":
        pytest.skip("address space is limited on Linux only")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 500_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("size", [(1, 100_000), (1, 5_000_000), (20_000_000, 1)])
def test_extremely_long_image_is_resized_in_little_memory(size: tuple[int, int]) -> None:
    # Resampled at once, the last would take 640 MB of weights.
    target = Target(width_px=384, height_px=384)
    image = decode(encode(Image.new("L", size, 77), "PNG"), target, CONFIG)
    assert (image.width_px, image.height_px) == size
    assert (image.pixels == 77).all()


def test_wrong_filter_name_is_a_crash_not_a_bad_image() -> None:
    with pytest.raises(KeyError):
        decode(encode(scene(), "PNG"), Target(width_px=4, height_px=4, resample="best"), CONFIG)


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_does_not_cost_the_image(kind: str, exif: bytes) -> None:
    plain = decode(encode(scene(), kind), TARGET, CONFIG)
    broken = decode(encode(scene(), kind, exif=exif), TARGET, CONFIG)
    assert (broken.pixels == plain.pixels).all()


def test_threads_decode_alike() -> None:
    data = encode(scene(1600, 1200), "JPEG")
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: decode(data, TARGET, CONFIG), range(32)))
    assert all((image.pixels == images[0].pixels).all() for image in images)
