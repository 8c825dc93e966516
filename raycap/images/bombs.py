"""Limits for image files that need far more time or memory than their size and pixels suggest.

Pillow and its libraries limit the number of pixels of an image. The limits here cover other costs,
each of which a file of a few kilobytes can cause.
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
"""Pixels over all scans of a JPEG: 208 scans of 12 million pixels, or 13 of the largest image."""

NUM_PRECINCTS = 200_000
"""Precincts of a JPEG 2000 image: its decoder needs about 400 bytes per precinct."""

NUM_TILES = 16_384
"""Tiles of a JPEG 2000 image: its decoder needs about 11,000 bytes per tile."""

GZIP_PX = 16_000_000
"""Pixels of a compressed FITS image: Pillow unpacks them in Python, 0.2 s per million."""

NUM_READS = 500_000
"""Reads of a header: Pillow's parsers take up to a second for this many empty chunks."""

# A marker that is neither a byte of 255 among the pixels nor a restart between them.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_BARE_MARKERS = frozenset({0x01, 0xD8})
_SCAN, _END = 0xDA, 0xD9

# Coding styles of JPEG 2000, of an image or of a component, that set the size of precincts. As
# strict as the decoder, because similar bytes can also occur among the pixels.
_STYLE = rb"([\x00-\x20])[\x00-\x08]{2}.[\x00\x01](.{1,33})"
_STYLES = {
    b"\xff\x52\x00": re.compile(rb".[\x01\x03\x05\x07][\x00-\x04]..[\x00\x01]" + _STYLE, re.S),
    b"\xff\x53\x00": re.compile(rb"..\x01" + _STYLE, re.S),
}
# The size comes first and determines the number of tiles. The decoder also accepts it after other
# markers, where it cannot be distinguished from similar bytes.
_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{32})", re.S)
_NO_SIZE = re.compile(rb"jp2c(?:.{8})?\xff\x4f(?!\xff\x51)", re.S)
_NUM_STREAMS = 64  # per file: icons have a dozen
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class HeaderReader(BytesIO):
    """A file in memory that limits the number of reads, until `stop_counting`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._num_left = NUM_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; raise OSError after too many reads."""
        self._num_left -= 1
        if self._num_left < 0:
            raise OSError(f"more than {NUM_READS:,} pieces before the pixels end")
        return super().read(size)

    def stop_counting(self) -> None:
        """Allow any number of reads: some formats read pixels byte by byte."""
        self._num_left = sys.maxsize


def check_cost(image: Any, data: bytes, config: ImageConfig) -> None:
    """Refuse an opened but unloaded image of Pillow that would need minutes or gigabytes.

    Raises:
        ImageError: `too_large`, or `decode_failed` if its cost cannot be determined.
    """
    num_px = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        num_scans = _count_scans(data)
        _refuse_above(SCANNED_PX, num_scans * num_px, f"pixels in {num_scans:,} scans")
    elif image.format in ("JPEG2000", "ICNS"):
        _refuse_above(NUM_TILES, _count_tiles(data), "tiles")
        # The size of an icon is not known yet; Pillow limits it.
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
    """Count the scans of the first image in a JPEG; each covers all of its pixels."""
    # A fast upper bound: thumbnails and data after the image may contain these bytes, too. Few
    # images have more than a dozen.
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
    """Return the number of tiles of the JPEG 2000 image with the most tiles in a file."""
    sizes = list(islice(_SIZE.finditer(data), _NUM_STREAMS + 1))
    if len(sizes) > _NUM_STREAMS or _NO_SIZE.search(data):
        raise ImageError(ErrorCode.DECODE_FAILED, "JPEG2000: its size is not at the start")
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
