"""Which files count as images by their names."""

import re
from collections.abc import Collection

_SUFFIXES = """
    apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli gif heic heif icns ico im j2c j2k
    jfif jp2 jpc jpe jpeg jpf jpg jpx mpo msp pbm pcd pcx pfm pgm png pnm ppm psd qoi ras rgb rgba
    sgi tga tif tiff webp xbm xpm
"""
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
"""Suffixes of files that count as images in a folder or prefix, as do files without a suffix."""

# Folders of desktops, notebooks, file servers and archives: deleted files, thumbnails, copies.
_SYSTEM_FOLDER = re.compile(
    r"(?:^|/)(\.Trash(?:es|-\d+)?|\.ipynb_checkpoints|\.thumbnails|@eaDir|#recycle|@Recycle"
    r"|__MACOSX|\$RECYCLE\.BIN|System Volume Information|lost\+found|\.AppleDouble)(?=/)"
)

HIDDEN = "hidden"


def why_no_image(key: str) -> str | None:
    """Return why a file of a folder or prefix does not count as an image: None if it does.

    The reason is its suffix, `hidden`, or the system's folder that it is in, such as `@eaDir/`.
    """
    if folder := system_folder(key):
        return folder
    name = key.rpartition("/")[2]
    if name.startswith("."):
        return HIDDEN
    suffix = _suffix(name)
    return None if not suffix or suffix in IMAGE_SUFFIXES else suffix


def system_folder(key: str, named: Collection[str] = ()) -> str | None:
    """Return the system's folder that a key is in, such as `@eaDir/`; None if it is in none.

    Args:
        key: relative to the source.
        named: folders that the user asked for by name, which do not count.
    """
    found = (match[1] for match in _SYSTEM_FOLDER.finditer(key))
    return next((f"{name}/" for name in found if name not in named), None)


def has_image_suffix(name: str) -> bool:
    """Whether the suffix of a file's name or key says that it is an image."""
    return _suffix(name.rpartition("/")[2]) in IMAGE_SUFFIXES


def _suffix(name: str) -> str:
    # As `PurePath.suffix`: a name that ends in a dot has none.
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and dot and ending else ""
