"""Files that Pillow cannot read by itself: what they are, and HEIF if its package is installed.

Nothing of their content is shown: a list can name any file of the machine.
"""

import re
from codecs import getincrementaldecoder
from functools import cache
from importlib import import_module

from PIL import Image

_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_NO_HEIF = "HEIF (HEIC): needs the extra raycap[heif] on every node"

_KINDS = (
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS: fetch the file itself"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg|<svg)", re.S | re.I), "SVG"),
    (re.compile(rb"\s*(<!DOCTYPE html|<html|<head|<body)", re.I), "an HTML page"),
    (re.compile(rb"\s*<\?xml|\s*<Error>"), "XML"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x1aE\xdf\xa3|RIFF....AVI|....ftyp", re.S), "a video"),
    (re.compile(rb"\0+\Z"), "zeros only"),
)
_TEXT_IMAGES = re.compile(rb"P[1-7Ff]\s|#define |/\* XPM ")
_LISTS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"PAR1", "Parquet"))
HEAD_BYTES = 1_024
"""As many first bytes of a file as its description needs."""
_TEXT_BYTES = bytes(range(32, 127)) + b"\t\n\r"


@cache
def register_heif() -> bool:
    """Let Pillow read HEIF, the format of many phones, if `raycap[heif]` is installed."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return "HEIF" in Image.OPEN


def describe_other(data: bytes) -> str:
    """Describe a file that is no image of a supported format."""
    head = data[:HEAD_BYTES]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return _NO_HEIF
    kinds = (kind for pattern, kind in _KINDS if pattern.match(head))
    kind = next(kinds, None) or ("text" if is_text(head) else None)
    return "not a supported image format" + (f": {kind}" if kind else "")


def describe_list(head: bytes) -> str | None:
    """Describe a file that may be a list of images by its first bytes; None if it is none.

    Text that is a picture or a page, such as SVG, is no list.
    """
    if found := next((kind for magic, kind in _LISTS if head.startswith(magic)), None):
        return found
    is_other = _TEXT_IMAGES.match(head) or any(pattern.match(head) for pattern, _ in _KINDS)
    return "text" if not is_other and _is_utf8(head) else None


def _is_utf8(head: bytes) -> bool:
    try:
        # Not final: the last character may be cut off.
        text = getincrementaldecoder("utf-8")().decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(char.isprintable() or char in "\t\n\r" for char in text)


def is_text(data: bytes) -> bool:
    """Whether bytes are ASCII text."""
    return not data.translate(None, _TEXT_BYTES)
