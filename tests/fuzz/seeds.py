"""Small sound image files to start from: every format that is written, and by hand those only read.

`SEEDS` maps a name to the file's bytes; the part before the dash is the format as Pillow names it.
"""

import gzip
import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image

WIDTH, HEIGHT = 24, 20


def scene(mode: str = "RGB") -> Image.Image:
    """A small picture with detail, in any mode."""
    pixels = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    if mode in ("I;16", "I", "F"):
        wide = pixels[..., 0].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
        return Image.fromarray(wide * 257)
    if mode in ("RGBA", "LA", "La", "RGBa"):
        return Image.fromarray(pixels, "RGBA").convert(mode)
    return Image.fromarray(pixels[..., :3]).convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Write an image file in memory."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # IM's writer is deprecated
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "raycap"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (1.0, 2.0, 3.0)
    return exif


def _frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [scene().rotate(90), scene().rotate(180)]}


_WRITTEN: list[tuple[str, str, str, dict[str, Any]]] = [
    *(("PNG", mode, mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "exif", "RGB", {"exif": _exif(), "icc_profile": b"\0" * 200, "dpi": (72, 72)}),
    ("PNG", "transparent", "P", {"transparency": 3}),
    ("PNG", "animated", "RGB", _frames()),
    *(("JPEG", mode, mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "progressive", "RGB", {"progressive": True, "quality": 90}),
    ("JPEG", "exif", "RGB", {"exif": _exif(), "icc_profile": b"\0" * 200, "subsampling": 0}),
    ("JPEG", "restart", "RGB", {"restart_marker_blocks": 1, "optimize": True, "comment": b"x"}),
    ("MPO", "frames", "RGB", _frames()),
    *(("GIF", mode, mode, {}) for mode in ("L", "P", "RGB", "RGBA")),
    ("GIF", "animated", "RGB", {**_frames(), "comment": b"a comment", "loop": 3}),
    ("GIF", "interlaced", "L", {"interlace": 1, "transparency": 2}),
    ("WEBP", "lossy", "RGB", {}),
    ("WEBP", "lossless", "RGBA", {"lossless": True, "exif": _exif()}),
    ("WEBP", "alpha", "RGBA", {"quality": 50, "icc_profile": b"\0" * 100, "xmp": b"<x/>"}),
    ("WEBP", "animated", "RGB", _frames()),
    *(("TIFF", mode, mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB")),
    *(("TIFF", mode, mode, {}) for mode in ("I;16", "I", "F", "YCbCr")),
    *(
        ("TIFF", name, "RGB", {"compression": name})
        for name in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
    *(("TIFF", name, "1", {"compression": name}) for name in ("group3", "group4", "tiff_ccitt")),
    ("TIFF", "zstd", "RGB", {"compression": "zstd"}),
    ("TIFF", "frames", "RGB", {**_frames(), "exif": _exif()}),
    ("TIFF", "big", "RGB", {"big_tiff": True}),
    ("AVIF", "lossy", "RGB", {"speed": 10}),
    ("AVIF", "alpha", "RGBA", {"speed": 10, "exif": _exif()}),
    ("AVIF", "animated", "RGB", {"speed": 10, **_frames()}),
    ("JPEG2000", "RGB", "RGB", {}),
    ("JPEG2000", "LA", "LA", {"irreversible": True}),
    ("JPEG2000", "codestream", "RGB", {"no_jp2": True, "tile_size": (8, 8)}),
    ("JPEG2000", "precincts", "L", {"precinct_size": (16, 16), "codeblock_size": (4, 4)}),
    *(("BMP", mode, mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ("DIB", "RGB", "RGB", {}),
    ("ICO", "png", "RGBA", {"sizes": [(16, 16)]}),
    ("ICO", "bmp", "RGBA", {"sizes": [(16, 16)], "bitmap_format": "bmp"}),
    *(("TGA", mode, mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ("TGA", "rle", "RGB", {"compression": "tga_rle"}),
    *(("PPM", mode, mode, {}) for mode in ("1", "L", "RGB", "RGBA", "I;16", "F")),
    *(("PCX", mode, mode, {}) for mode in ("1", "L", "P", "RGB")),
    *(("SGI", mode, mode, {}) for mode in ("L", "RGB", "RGBA")),
    ("SGI", "wide", "RGB", {"bpc": 2}),
    *(("DDS", mode, mode, {}) for mode in ("L", "LA", "RGB", "RGBA")),
    *(("DDS", name, "RGBA", {"pixel_format": name}) for name in ("DXT1", "DXT3", "DXT5")),
    ("DDS", "BC5", "RGB", {"pixel_format": "BC5"}),
    ("BLP", "BLP1", "P", {"blp_version": "BLP1"}),
    ("BLP", "BLP2", "P", {"blp_version": "BLP2"}),
    *(("IM", mode, mode, {}) for mode in ("1", "L", "P", "RGB", "YCbCr", "F")),
    ("MSP", "1", "1", {}),
    ("XBM", "1", "1", {}),
    ("SPIDER", "F", "F", {}),
    *(("QOI", mode, mode, {}) for mode in ("RGB", "RGBA")),
]


def _written() -> Iterator[tuple[str, bytes]]:
    Image.init()
    for kind, name, mode, options in _WRITTEN:
        if Image.SAVE.get(kind):  # a build of Pillow may be without a library
            yield f"{kind}-{name}", encode(scene(mode), kind, **options)


def _psd() -> bytes:
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, HEIGHT, WIDTH, 8, 3)
    return header + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(range(240)) * 6


def _fits(width: int, height: int, bits: int, data: bytes) -> bytes:
    cards = ["SIMPLE  = T", f"BITPIX  = {bits}", "NAXIS   = 2"]
    cards += [f"NAXIS1  = {width}", f"NAXIS2  = {height}", "END"]
    header = "".join(card.ljust(80) for card in cards).encode()
    return header.ljust(2880) + data.ljust(2880, b"\0")


def fits_in_gzip(width: int, height: int, packed: bytes) -> bytes:
    """A FITS file of one 16-bit image, compressed by gzip, whose header declares any size."""
    empty = "".join(card.ljust(80) for card in ("SIMPLE  = T", "NAXIS   = 0", "END"))
    cards = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 1"]
    cards += ["ZIMAGE  = T", "ZCMPTYPE= 'GZIP_1  '", "ZBITPIX = 16", "ZNAXIS  = 2"]
    cards += [f"ZNAXIS1 = {width}", f"ZNAXIS2 = {height}", "END"]
    header = "".join(card.ljust(80) for card in cards)
    return (empty.ljust(2880) + header.ljust(2880)).encode() + (b"\0" * 8 + packed).ljust(
        2880, b"\0"
    )


def _fli() -> bytes:
    pixels = b"".join(bytes([1, WIDTH, row]) for row in range(HEIGHT))  # a run a row
    chunk = struct.pack("<IH", 6 + len(pixels), 15) + pixels
    frame = struct.pack("<IHH8x", 16 + len(chunk), 0xF1FA, 1) + chunk
    header = struct.pack("<IHHHHHHI", 128 + len(frame), 0xAF12, 1, WIDTH, HEIGHT, 8, 0, 40)
    return header.ljust(128, b"\0") + frame


def _sun(kind: int, depth: int, data: bytes) -> bytes:
    return struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, depth, len(data), kind, 0, 0) + data


def _xpm() -> bytes:
    rows = ",\n".join('"' + "ab.c" * (WIDTH // 4) + '"' for _ in range(HEIGHT))
    colours = '"a c #ff0000",\n"b c #00ff00",\n"c c #102030",\n". c None",\n'
    head = f'/* XPM */\nstatic char *x[] = {{\n"{WIDTH} {HEIGHT} 4 1",\n'
    return (head + colours + "/* pixels */\n" + rows + "\n};\n").encode()


def _pixar() -> bytes:
    header = bytearray(1024)
    header[:4] = b"\x80\xe8\0\0"
    header[416:428] = struct.pack("<HHHHHH", HEIGHT, WIDTH, 0, 0, 14, 2)
    return bytes(header) + bytes(WIDTH * HEIGHT * 3)


def _cursor() -> bytes:
    bitmap = bytearray(encode(scene().resize((16, 16)), "DIB"))
    bitmap[8:12] = struct.pack("<I", 32)  # the height of colours and mask together
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 0, 0, len(bitmap), 22)
    return struct.pack("<HHH", 0, 2, 1) + entry + bytes(bitmap)


def _icons(code: bytes, image: bytes) -> bytes:
    return struct.pack(">4sI4sI", b"icns", 16 + len(image), code, 8 + len(image)) + image


def _mcidas() -> bytes:
    words = [0] * 64
    words[1], words[8], words[9], words[10], words[13], words[33] = 4, HEIGHT, WIDTH, 1, 1, 256
    return struct.pack(">64i", *words) + bytes(WIDTH * HEIGHT)


def _run_length_bmp() -> bytes:
    rows = b"".join(bytes([WIDTH, row, 0, 0]) for row in range(HEIGHT)) + b"\0\1"
    palette = bytes(range(256)) * 4
    size = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 0, 0, 256, 0)
    offset = 14 + 40 + len(palette)
    return struct.pack("<2sIII", b"BM", offset + len(rows), 0, offset) + size + palette + rows


def _run_length_msp() -> bytes:
    row = bytes([0, WIDTH // 8, 0xAA])
    words = [*struct.unpack("<2H", b"LinS"), WIDTH, HEIGHT, 1, 1, 1, 1, WIDTH, HEIGHT]
    check = 0
    for word in words:
        check ^= word
    header = struct.pack("<16H", *words, 0, 0, check, 0, 0, 0)
    return header + struct.pack(f"<{HEIGHT}H", *[len(row)] * HEIGHT) + row * HEIGHT


def _by_hand() -> dict[str, bytes]:
    area = WIDTH * HEIGHT
    pcx = encode(scene("L"), "PCX")
    icon = scene("RGBA").resize((16, 16))
    texture = struct.pack("<4s7i", b"FTEX", 1, WIDTH, HEIGHT, 1, 1, 1, 32)
    return {
        "ICNS-png": _icons(b"icp4", encode(icon, "PNG")),
        "ICNS-jp2": _icons(b"icp4", encode(icon, "JPEG2000")),
        "PSD-raw": _psd(),
        "FITS-8": _fits(WIDTH, HEIGHT, 8, bytes(area)),
        "FITS-float": _fits(WIDTH, HEIGHT, -32, bytes(area * 4)),
        "FITS-gzip": fits_in_gzip(WIDTH, HEIGHT, gzip.compress(bytes(area * 4), mtime=0)),
        "FLI-runs": _fli(),
        "SUN-raw": _sun(1, 24, bytes(area * 3)),
        "SUN-runs": _sun(2, 8, b"\x80\x17\x05" * HEIGHT),
        "XPM-colours": _xpm(),
        "PIXAR-RGB": _pixar(),
        "CUR-bmp": _cursor(),
        "DCX-pcx": struct.pack("<III", 0x3ADE68B1, 12, 0) + pcx,
        "GBR-grey": struct.pack(">5I4sI", 33, 2, WIDTH, HEIGHT, 1, b"GIMP", 9)
        + b"name\0"
        + bytes(area),
        "FTEX-raw": texture + struct.pack("<i", area * 3) + bytes(area * 3),
        "XVTHUMB-332": f"P7 332\n#x\n{WIDTH} {HEIGHT} 255\n".encode() + bytes(area),
        "MCIDAS-8": _mcidas(),
        "IMT-grey": f"*x\nwidth {WIDTH}\nheight {HEIGHT}\npixel n8\n\x0c".encode() + bytes(area),
        "PPM-text": f"P3 {WIDTH} {HEIGHT} 255\n".encode() + b"7 70 250\n" * area,
        "PPM-odd": f"P5\n# x\n{WIDTH} {HEIGHT} 100\n".encode() + bytes(range(96)) * 5,
        "BMP-runs": _run_length_bmp(),
        "MSP-runs": _run_length_msp(),
    }


SEEDS: dict[str, bytes] = {**dict(_written()), **_by_hand()}
"""Name to file; each can be decoded."""
