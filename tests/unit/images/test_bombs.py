"""Small files that would take minutes or gigabytes: refused in little memory, and soon.

A file that hangs ends its process here: tests/decoding_cost.py sets the limit.
"""

import gzip
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.bombs import NUM_READS
from raycap.images.decoding import Target, decode
from tests.fuzz.seeds import encode, fits_in_gzip, scene
from tests.support.decoding_cost import cost_of

CONFIG = ImageConfig()
TARGET = Target(width_px=40, height_px=32)
LARGEST = 13_000  # pixels a side of an image that is just allowed


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = (b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), *chunks, pixels, (b"IEND", b""))
    )


def behind_pixels(sound: bytes, count: int) -> bytes:
    """A PNG with that many empty chunks at its end."""
    empty = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return sound[:-12] + empty * count + sound[-12:]


def jpeg_of_scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan, 20 bytes that go over all pixels, comes again."""
    data = encode(Image.new("L", (side, side), 100), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def jpeg_of_few_scans_that_says_it_is_large(count: int) -> bytes:
    data = bytearray(jpeg_of_scans(16, count))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", LARGEST, LARGEST)
    return bytes(data)


def jpeg2000(side: int, exponents: int, *, of_component: bool = False, kind: str = "j2k") -> bytes:
    """A JPEG 2000 image of one resolution with custom precincts."""
    plain = encode(
        Image.new("L", (side, side), 9), "JPEG2000", no_jp2=kind == "j2k", num_resolutions=1
    )
    at = plain.index(b"\xff\x52\x00\x0c")
    style = plain[at : at + 14]
    if of_component:
        added = b"\xff\x53\x00\x0a\x00\x01" + style[9:] + bytes([exponents])
        return plain[: at + 14] + added + plain[at + 14 :]
    fine = b"\xff\x52\x00\x0d\x01" + style[5:] + bytes([exponents])
    return plain[:at] + fine + plain[at + 14 :]


def jpeg2000_of_tiles(side: int, tile: int, before_size: bytes = b"", kind: str = "j2k") -> bytes:
    """A JPEG 2000 image cut into tiles, its size maybe behind another marker."""
    plain = bytearray(encode(Image.new("RGB", (side, side)), "JPEG2000", no_jp2=kind == "j2k"))
    at = plain.index(b"\xff\x4f\xff\x51")
    plain[at + 24 : at + 32] = struct.pack(">II", tile, tile)
    return bytes(plain[: at + 2] + before_size + plain[at + 2 :])


def tiff_of_one_tile(side: int, width: int) -> bytes:
    packed = zlib.compress(bytes(1000))
    entries = [(256, width), (257, width), (258, 8), (259, 8), (262, 1), (277, 1)]
    entries += [(322, side), (323, side), (324, 8), (325, len(packed))]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    directory = struct.pack("<H", len(entries)) + tags + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory


def animated_webp(side: int, num_frames: int) -> bytes:
    frames = [Image.new("RGB", (9, 9), (0, number * 99 % 256, 0)) for number in range(num_frames)]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    data = bytearray(encode(frames[0], "WEBP", **options))
    canvas = data.index(b"VP8X") + 12
    data[canvas : canvas + 6] = struct.pack("<I", side - 1)[:3] * 2
    return bytes(data)


def animated_gif(side: int, num_frames: int) -> bytes:
    data = encode(scene("L"), "GIF")
    start = data.index(b",\0\0\0\0")
    frame = data[start:-1]
    return data[:6] + struct.pack("<HH", side, side) + data[10:start] + frame * num_frames + b";"


def icon(image: bytes, code: bytes = b"ic10") -> bytes:
    return struct.pack(">4sI4sI", b"icns", 16 + len(image), code, 8 + len(image)) + image


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 2.5 billion pixels": (lambda: png(50_000, 50_000), "too_large: "),
    "PNG with a long description": (
        lambda: png(9, 9, (b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000)))),
        "decode_failed: PNG: Decompressed data too large",
    ),
    "PNG with a long colour profile": (
        lambda: png(9, 9, (b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000)))),
        "decode_failed: PNG: Decompressed data too large",
    ),
    "PNG of many chunks": (
        lambda: png(9, 9, *[(b"abCd", b"")] * (NUM_READS // 2)),
        "decode_failed: PNG: more than 500,000 pieces",
    ),
    "PNG of many chunks behind its pixels": (
        lambda: behind_pixels(encode(scene(), "PNG"), NUM_READS // 2),
        "decode_failed: PNG: more than 500,000 pieces",
    ),
    "JPEG of junk": (
        lambda: b"\xff\xd8\xff\xe0\0\2" + bytes(2_000_000) + encode(scene(), "JPEG"),
        "decode_failed: JPEG: more than 500,000 pieces",
    ),
    "JPEG of many scans": (
        lambda: jpeg_of_few_scans_that_says_it_is_large(60_000),
        "too_large: 10,141,",
    ),
    "JPEG 2000 of fine precincts": (
        lambda: jpeg2000(2000, 0),
        "too_large: 4,000,000 precincts, more than 200,000",
    ),
    "JPEG 2000 with a component of fine precincts": (
        lambda: jpeg2000(2000, 0, of_component=True),
        "too_large: 4,000,000 precincts",
    ),
    "JPEG 2000 of many tiles": (
        lambda: jpeg2000_of_tiles(1016, 4),
        "too_large: 64,516 tiles, more than 16,384",
    ),
    "JPEG 2000 of many tiles, told late": (
        lambda: jpeg2000_of_tiles(1016, 4, b"\xff\x70\0\2", "jp2"),
        "decode_failed: JPEG2000: its size is not at the start",
    ),
    "icon of many tiles": (lambda: icon(jpeg2000_of_tiles(1016, 4, kind="jp2")), "too_large: 64,"),
    "JPEG 2000 of many images": (
        lambda: jpeg2000(24, 15) + b"\xff\x4f\xff\x51" * 1_000,
        "decode_failed: JPEG2000: its size",
    ),
    "icon of fine precincts": (
        lambda: icon(jpeg2000(2000, 0, kind="jp2")),
        "too_large: 178,",
    ),
    "TIFF of 3.6 billion pixels": (
        lambda: tiff_of_one_tile(60_000, 60_000),
        "too_large: ",
    ),
    "TIFF of one huge tile": (
        lambda: tiff_of_one_tile(40_000, 100),
        "too_large: 1,600,000,000 pixels in a tile",
    ),
    "WebP of a huge canvas": (lambda: animated_webp(60_000, 2), "too_large: "),
    "GIF of a huge canvas": (lambda: animated_gif(65_535, 2), "too_large: "),
    "FITS in gzip": (
        lambda: fits_in_gzip(LARGEST, LARGEST, gzip.compress(bytes(9_000))),
        "too_large: 169,000,000 pixels in gzip, more than 16,000,000",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_little_cost(name: str) -> None:
    make, answer = BOMBS[name]
    cost = cost_of(make(), CONFIG)
    assert cost.answer.startswith(answer)
    assert cost.megabytes < 100


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (animated_gif(24, 50_000), "24x24"),
        (animated_webp(9, 500), "9x9"),
        (
            encode(Image.new("L", (24, 20)), "TIFF", save_all=True, append_images=[scene()] * 500),
            "",
        ),
    ],
    ids=["GIF", "WebP", "TIFF"],
)
def test_of_many_frames_only_the_first_is_paid_for(data: bytes, size: str) -> None:
    cost = cost_of(data, CONFIG)
    assert cost.answer.startswith(size or "24x20")
    assert cost.megabytes < 60


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F", "LAB"])
def test_the_largest_image_takes_less_than_20_bytes_a_pixel(mode: str) -> None:
    side = 3000
    image = Image.new(mode, (side, side))
    cost = cost_of(encode(image, "TIFF", compression="tiff_deflate"), CONFIG)
    assert cost.answer == f"{side}x{side}"
    assert cost.megabytes * 1e6 / side**2 < 20


def test_the_same_images_with_ordinary_numbers_are_decoded() -> None:
    ordinary = [
        jpeg_of_scans(500, 100),
        jpeg2000(500, 0x77),
        jpeg2000(500, 0x77, of_component=True),
        tiff_of_one_tile(16, 16),
        fits_in_gzip(24, 20, gzip.compress(bytes(24 * 20 * 4))),
        encode(Image.new("RGB", (900, 900)), "JPEG2000", tile_size=(16, 16)),
        encode(Image.new("RGB", (900, 900)), "JPEG2000", precinct_size=(64, 64)),
    ]
    for data in ordinary:
        assert decode(data, TARGET, CONFIG).pixels.shape == (32, 40, 3)


def test_scans_of_a_thumbnail_and_bytes_behind_the_image_do_not_count() -> None:
    photo = encode(
        Image.new("RGB", (2000, 2000)), "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\2" * 9_000
    )
    with Image.open(BytesIO(photo)) as image:
        assert image.size == (2000, 2000)
    decode(photo + b"\xff\xda\0\2" * 9_000, TARGET, CONFIG)


def test_scans_beyond_the_limit_are_too_large_and_those_at_it_are_not() -> None:
    decode(jpeg_of_scans(3000, 200), TARGET, CONFIG)
    with pytest.raises(ImageError) as caught:
        decode(jpeg_of_scans(3000, 300), TARGET, CONFIG)
    assert caught.value.code is ErrorCode.TOO_LARGE
