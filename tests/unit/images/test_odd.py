"""Odd but harmless: absurd EXIF, any colour profile, files that are two things at once."""

import struct
from io import BytesIO
from random import Random
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.decoding import Target, decode, prepare_process
from tests.fuzz.seeds import encode, scene

CONFIG = ImageConfig()
TARGET = Target(width_px=24, height_px=20)

pytestmark = pytest.mark.usefixtures("prepared")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set this process up as the load stage does, and back again."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", PngImagePlugin.MAX_TEXT_CHUNK)
    prepare_process(CONFIG)


def pixels_of(data: bytes) -> np.ndarray:
    return decode(data, TARGET, CONFIG).pixels


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, TARGET, CONFIG)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
@pytest.mark.parametrize("size", ["9*9*9", "9*9*9*9*9", "9", "x*y", "9.5*9", "-9*-9", "0*0", ""])
def test_an_im_file_whose_size_is_no_pair_of_numbers_is_a_decode_error(size: str) -> None:
    sound = encode(scene(), "IM")
    assert sound.count(b"(x*y): 24*20\r\n") == 1
    odd = sound.replace(b"(x*y): 24*20\r\n", f"(x*y): {size}\r\n".encode())
    with Image.open(BytesIO(sound)) as image:
        assert image.format == "IM"
    code = refusal(odd).code
    assert code in (ErrorCode.DECODE_FAILED, ErrorCode.UNSUPPORTED_FORMAT)  # it has no signature


def exif(*entries: tuple[int, int, int, bytes], following: int = 0) -> bytes:
    """EXIF of those entries: tag, type, count, and four bytes of value or offset."""
    head = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return (
        head
        + b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
        + struct.pack("<I", following)
    )


ABSURD_EXIF = {
    "orientation of 4 billion": exif((274, 4, 1, b"\xff" * 4)),
    "negative orientation": exif((274, 9, 1, b"\xff" * 4)),
    "orientation as text": exif((274, 2, 4, b"6\0\0\0")),
    "orientation as a fraction over zero": exif((274, 5, 1, struct.pack("<I", 8)), following=0),
    "four billion orientations": exif((274, 3, 2**32 - 1, b"\x08\0\0\0")),
    "no orientation at all": exif((274, 3, 0, b"\x06\0\0\0")),
    "orientation not a number": exif((274, 11, 1, struct.pack("<f", float("nan")))),
    "an offset beyond the end": exif((271, 2, 99, struct.pack("<I", 2**31))),
    "a directory that follows itself": exif((271, 2, 4, b"ray\0"), following=8),
    "a directory that holds itself": exif((34665, 4, 1, struct.pack("<I", 8))),
    "5,000 entries that share 30,000 bytes": exif(
        *((1000 + n, 7, 30_000, struct.pack("<I", 8)) for n in range(5_000))
    ),
    "65,535 entries, none there": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "an unknown byte order": b"Exif\0\0XX*\0\x08\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ABSURD_EXIF)
def test_absurd_exif_does_not_cost_the_image(kind: str, name: str) -> None:
    plain = encode(scene(), kind)
    absurd = encode(scene(), kind, exif=ABSURD_EXIF[name][:65_000])
    assert (pixels_of(absurd) == pixels_of(plain)).all()


PROFILES = {
    "of sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "of Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    "of noise": Random(0).randbytes(5_000),
    "of 3.5 MB": Random(0).randbytes(3_500_000),
    "of one byte": b"x",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("name", PROFILES)
def test_no_colour_profile_costs_the_image(kind: str, name: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "AVIF" and name in ("of noise", "of one byte"):
        options["quality"] = 100
    plain = encode(scene(), kind, **options)
    profiled = encode(scene(), kind, icc_profile=PROFILES[name], **options)
    assert (pixels_of(profiled) == pixels_of(plain)).all()


def test_a_profile_cut_short_or_out_of_order_does_not_cost_a_jpeg() -> None:
    sound = encode(scene(), "JPEG", icc_profile=PROFILES["of noise"])
    at = sound.index(b"ICC_PROFILE\0\x01\x01")
    for numbers in (b"\x09\x01", b"\x01\x09", b"\0\0", b"\xff\xff"):
        odd = sound[: at + 12] + numbers + sound[at + 14 :]
        assert (pixels_of(odd) == pixels_of(encode(scene(), "JPEG"))).all()


def test_a_long_description_does_not_cost_a_png() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x/>" * 600_000, zip=True)
    described = encode(scene(), "PNG", pnginfo=text)
    assert (pixels_of(described) == pixels_of(encode(scene(), "PNG"))).all()


def zipped() -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("../../run.sh", "echo no")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize(
    "behind", [zipped(), b"<script>alert(1)</script>", b"%PDF-1.7\n%%EOF", encode(scene(), "EPS")]
)
def test_what_stands_behind_an_image_is_not_looked_at(kind: str, behind: bytes) -> None:
    sound = encode(scene(), kind)
    assert (pixels_of(sound + behind) == pixels_of(sound)).all()


@pytest.mark.parametrize(
    "before",
    [
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<?xml version='1.0'?><svg/>",
        b"PK\3\4",
        b"#!/bin/sh\n",
    ],
)
def test_what_begins_as_something_else_is_no_image(before: bytes) -> None:
    assert refusal(before + encode(scene(), "PNG")).code is ErrorCode.UNSUPPORTED_FORMAT


def test_postscript_inside_other_formats_is_not_run() -> None:
    program = encode(scene(), "EPS")
    inside = struct.pack("<4sIIII", b"\xc5\xd0\xd3\xc6", 32, len(program), 0, 0).ljust(32, b"\0")
    assert refusal(inside + program).code is ErrorCode.UNSUPPORTED_FORMAT


def test_a_markup_page_in_a_jpegs_comment_is_still_a_jpeg() -> None:
    page = encode(scene(), "JPEG", comment=b"*/--><script>alert(1)</script>")
    assert (pixels_of(page) == pixels_of(encode(scene(), "JPEG"))).all()
