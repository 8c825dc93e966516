"""Names of the files that belong to images: paths that untrusted ids cannot leave a folder by."""

import posixpath
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Protocol

import numpy as np
from jaxtyping import UInt64

from raycap.config import SameStem

SIDECAR_SUFFIX = ".txt"

_UNSAFE = re.compile(
    r"%(?=[0-9A-Fa-f]{2})"  # looks like an escape
    r"|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]"
    r"|^/|(?<=/)/|/\Z"  # around an empty name
    r"|(?<![^/])\.{1,2}(?![^/])"  # a name of one or two dots only
    r"|(?<=^[A-Za-z]):|:(?=//)"  # of a drive, of an address
)
_MARK = "%7E"  # an escaped `~`, which is never escaped otherwise: no other path contains it
_NAME_BYTES = 255  # of most file systems, the suffix of a sidecar included
_PATH_BYTES = 900  # S3 allows 1,024, including the prefix of the destination
_SUFFIX_BYTES = 16


def safe_path(image_id: str, suffix: str = SIDECAR_SUFFIX) -> str:
    """Convert an image id to a relative path that cannot leave its folder.

    There is room for a suffix after it.

    Ids are untrusted: `../x`, `/etc/x`, `https://host/a.jpg`. Characters that could leave a folder
    or break a tool are percent-encoded, ordinary names do not change, and two ids never share a
    path. Names and paths that are too long for a store are cut and end with a digest.
    """
    path = _UNSAFE.sub(_escape, image_id) or _MARK
    room = _NAME_BYTES - max(len(suffix.encode()), len(SIDECAR_SUFFIX))
    short = "/".join(_shortened(name, room) for name in path.split("/"))
    head = short.encode()[:_PATH_BYTES]
    if len(short.encode()) == len(head):
        return short
    folder = head[:-64].decode(errors="ignore").rpartition("/")[0]
    return f"{folder}/{_MARK}{_digest(path)}{_short_suffix(path)}"


def _escape(match: re.Match[str]) -> str:
    # A lone surrogate cannot occur in an Arrow column, but this function accepts any text.
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _shortened(name: str, num_bytes: int) -> str:
    data = name.encode()
    if len(data) <= num_bytes:
        return name
    head = data[: num_bytes - 64].decode(errors="ignore")
    return f"{head}{_MARK}{_digest(name)}{_short_suffix(name)}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _short_suffix(name: str) -> str:
    suffix = posixpath.splitext(name)[1]
    return suffix if len(suffix.encode()) <= _SUFFIX_BYTES else ""


class Names(Protocol):
    """Gives each image the name of its file."""

    @property
    def has_shared(self) -> bool:
        """Whether any images would share a name."""

    def of(self, image_ids: list[str], taken: set[str]) -> list[tuple[str | None, bool]]:
        """Return the names of the files of images, no two of them the same.

        Args:
            image_ids: the images, in the order of the output.
            taken: what this pass over the images has given away; empty before the first call.

        Returns:
            The name of each image's file (None: it gets none), and whether it would share one.
        """


class FullNames:
    """Adds a suffix: `a/b.jpg` has `a/b.jpg.txt`. No two images share such a name."""

    has_shared = False

    def __init__(self, suffix: str = SIDECAR_SUFFIX) -> None:
        self._suffix = suffix

    def of(self, image_ids: list[str], taken: set[str]) -> list[tuple[str | None, bool]]:
        """Return the names of the files of images, see `Names`."""
        del taken
        return [(safe_path(one, self._suffix) + self._suffix, False) for one in image_ids]


class SidecarNames:
    """Replaces the suffix: `a/b.jpg` has `a/b.txt`.

    Images that would share a name are treated as `same_stem` says: by default they keep their
    suffix, `a.jpg.txt` and `a.png.txt`. Finding them takes one pass over all ids and up to 16 bytes
    per image.
    """

    def __init__(
        self,
        pages: Iterable[list[str]],
        same_stem: SameStem = SameStem.SUFFIX,
        suffix: str = SIDECAR_SUFFIX,
    ) -> None:
        self._same_stem = same_stem
        self._suffix = suffix
        gathered = bytearray()
        for image_ids in pages:
            paths = [safe_path(image_id, suffix) for image_id in image_ids]
            stems = [posixpath.splitext(path)[0] for path in paths]
            # `a.jpg.png` would share `a.jpg.txt` with an `a.jpg` that keeps its suffix.
            suffixed = [path for path, stem in zip(paths, stems, strict=True) if path != stem]
            kept = suffixed if same_stem is SameStem.SUFFIX else []
            gathered += _hashes([*stems, *kept]).tobytes()
        hashes = np.frombuffer(gathered, np.uint64)
        hashes.sort()
        # A collision of hashes only makes two images keep their suffix unnecessarily.
        self._shared = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])

    @property
    def has_shared(self) -> bool:
        """Whether any images would share a name."""
        return bool(len(self._shared))

    def of(self, image_ids: list[str], taken: set[str]) -> list[tuple[str | None, bool]]:
        """Return the names of the files of images, see `Names`."""
        paths = [safe_path(image_id, self._suffix) for image_id in image_ids]
        stems = [posixpath.splitext(path)[0] for path in paths]
        hashes = _hashes(stems)
        places = np.searchsorted(self._shared, hashes)
        is_shared = np.append(self._shared, np.uint64(0))[places] == hashes
        is_shared &= places < len(self._shared)
        rows = zip(paths, stems, is_shared.tolist(), strict=True)
        return [
            (self._name(path, stem, taken, is_shared=shared), shared) for path, stem, shared in rows
        ]

    def _name(self, path: str, stem: str, taken: set[str], *, is_shared: bool) -> str | None:
        if not is_shared:
            return stem + self._suffix
        if self._same_stem is SameStem.SUFFIX:
            return path + self._suffix
        if stem in taken:
            return None
        taken.add(stem)
        return stem + self._suffix


def _hashes(names: list[str]) -> UInt64[np.ndarray, " n"]:
    data = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(data, np.uint64)
