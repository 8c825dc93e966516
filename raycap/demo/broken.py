"""What every real image set has: files that are not, or no longer, images."""

import zlib
from pathlib import Path


def write_broken_files(folder: Path) -> int:
    """Add one file of each kind of damage to a folder of JPEGs; return their number."""
    whole = next(path for path in sorted(folder.iterdir()) if path.suffix == ".jpg").read_bytes()
    broken = {
        "empty.jpg": b"",
        "error-page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "huge.png": _png_header(60_000, 60_000),
        "truncated.jpg": whole[: len(whole) // 2],
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    return len(broken)


def _png_header(width_px: int, height_px: int) -> bytes:
    """Write the start of a PNG that claims to be huge: a decompression bomb, defused."""
    size = width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big")
    body = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(body) + _png_chunk(b"IDAT")


def _png_chunk(body: bytes) -> bytes:
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
