"""Image files that would cost far more than their size and their pixels tell: refused beforehand.

Pillow and the libraries below it bound the pixels of an image. What is bounded here is what they
leave open, all of it within reach of files of a few kilobytes.
"""

import re
import struct
import sys
from io import BytesIO
from itertools import islice
from typing import Any

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError

SCANNED_PX = 2_500_000_000
"""Pixels that the scans of a JPEG may go over: 208 scans of 12 million, 13 of the largest image."""

NUM_PRECINCTS = 200_000
"""Precincts of a JPEG 2000 image: its decoder holds some 400 bytes for each."""

NUM_TILES = 16_384
"""Tiles of a JPEG 2000 image: its decoder holds some 11,000 bytes for each."""

GZIP_PX = 16_000_000
"""Pixels of a compressed FITS image: Pillow unpacks them one by one in Python, 0.2 s a million."""

NUM_READS = 500_000
"""Reads of a header: Pillow's parsers take up to a second for so many empty chunks."""

# A marker: neither a byte of 255 among the pixels nor one of the restarts between them.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_BARE_MARKERS = frozenset({0x01, 0xD8})
_SCAN, _END = 0xDA, 0xD9

# The coding styles of JPEG 2000, of an image or of a component, that set the size of precincts: as
# narrow as the decoder reads them, since bytes like them may stand among the pixels, too.
_STYLE = rb"([\x00-\x20])[\x00-\x08]{2}.[\x00\x01](.{1,33})"
_STYLES = {
    b"\xff\x52\x00": re.compile(rb".[\x01\x03\x05\x07][\x00-\x04]..[\x00\x01]" + _STYLE, re.S),
    b"\xff\x53\x00": re.compile(rb"..\x01" + _STYLE, re.S),
}
# Its size stands first, and says how many tiles there are. The decoder would take it behind other
# markers, too, where it could not be told from bytes like it.
_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{32})", re.S)
_NO_SIZE = re.compile(rb"jp2c(?:.{8})?\xff\x4f(?!\xff\x51)", re.S)
_NUM_STREAMS = 64  # in one file: icons hold a dozen
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class HeaderReader(BytesIO):
    """A file in memory that counts how often it is read, until `stop_counting`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._num_left = NUM_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file, if not too often."""
        self._num_left -= 1
        if self._num_left < 0:
            raise OSError(f"more than {NUM_READS:,} pieces before the pixels end")
        return super().read(size)

    def stop_counting(self) -> None:
        """Let the pixels be read, by some formats byte by byte."""
        self._num_left = sys.maxsize


def check_cost(image: Any, data: bytes, config: ImageConfig) -> None:
    """Refuse an image, opened by Pillow and not yet loaded, that would take minutes or gigabytes.

    Raises:
        ImageError: `too_large`, or `decode_failed` where it cannot be told.
    """
    num_px = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        num_scans = _count_scans(data)
        _refuse_above(SCANNED_PX, num_scans * num_px, f"pixels in {num_scans:,} scans")
    elif image.format in ("JPEG2000", "ICNS"):
        _refuse_above(NUM_TILES, _count_tiles(data), "tiles")
        # An icon's own size is not known yet, only that Pillow checks it.
        size = image.size if image.format == "JPEG2000" else (int(config.max_pixels**0.5),) * 2
        _refuse_above(NUM_PRECINCTS, _count_precincts(data, size), "precincts")
    elif image.format == "TIFF":
        sides = [image.tag_v2.get(tag) or 1 for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        _refuse_above(config.max_pixels, sides[0] * sides[1], "pixels in a tile")
    elif image.format == "FITS" and image.tile[0][0] == "fits_gzip":
        _refuse_above(GZIP_PX, num_px, "pixels in gzip")


def _refuse_above(limit: int, count: int, of_what: str) -> None:
    if count > limit:
        raise ImageError(ErrorCode.TOO_LARGE, f"{count:,} {of_what}, more than {limit:,}")


def _count_scans(data: bytes) -> int:
    """Count the scans of a JPEG's first image; each goes over all of its pixels."""
    # At least as many as there are, in a fraction of the time: thumbnails and what lies behind the
    # image may hold such bytes. Few images have more than a dozen.
    if (most := data.count(b"\xff\xda")) < 16:
        return most
    num_scans, place = 0, 2
    for _ in range(NUM_READS):
        found = _MARKER.search(data, place)
        if not found or found[0][1] == _END:
            return num_scans
        place, marker = found.end(), found[0][1]
        num_scans += marker == _SCAN
        if marker not in _BARE_MARKERS:
            place += int.from_bytes(data[place : place + 2])
    return NUM_READS


def _count_tiles(data: bytes) -> int:
    """Count the tiles of the JPEG 2000 image of a file that has most."""
    sizes = list(islice(_SIZE.finditer(data), _NUM_STREAMS + 1))
    if len(sizes) > _NUM_STREAMS or _NO_SIZE.search(data):
        raise ImageError(ErrorCode.DECODE_FAILED, "JPEG2000: its size does not stand where it must")
    most = 0
    for found in sizes:
        right, bottom, _, _, width, height, left, top = struct.unpack(">8I", found[1])
        if width and height:
            most = max(most, -(-(right - left) // width) * -(-(bottom - top) // height))
    return most


def _count_precincts(data: bytes, size: tuple[int, int]) -> int:
    """Count the precincts of the finest coding style of a JPEG 2000 image, as if of one tile."""
    most = 0
    for marker, style in _STYLES.items():
        place = -1
        while (place := data.find(marker, place + 1)) >= 0:
            if found := style.match(data, place + len(marker)):
                num_levels, exponents = found[1][0], found[2]
                resolutions = zip(range(num_levels, -1, -1), exponents, strict=False)
                count = sum(_precincts_of(size, level, both) for level, both in resolutions)
                most = max(most, count)
    return most


def _precincts_of(size: tuple[int, int], level: int, exponents: int) -> int:
    across, down = level + (exponents & 15), level + (exponents >> 4)
    return -(-size[0] >> across) * -(-size[1] >> down)
