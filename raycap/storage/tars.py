"""The members of a tar and their places in it, from its headers alone.

`tarfile` reads the headers: GNU's long names, PAX and USTAR; the content in between is skipped. Of
a damaged tar, the members before the damage are found.
"""

import posixpath
from collections.abc import Collection, Iterator
from tarfile import BLOCKSIZE, TarError, TarFile, TarInfo
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from io import BufferedReader

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarMember(NamedTuple):
    """A regular file in a tar, or a link to one."""

    name: str
    """As it is written, without a leading `./`; bytes that are not UTF-8 are surrogates."""
    offset_bytes: int
    """Where its content begins; 0 for a link."""
    size_bytes: int
    target: str | None
    """The name of the member that a link leads to; None for a file."""


class DamagedTar(ValueError):
    """A tar that cannot be read any further; the message says where and why, in one line."""


class CompressedTar(DamagedTar):
    """A compressed tar, which has no places to read from."""


def tar_members(data: "BufferedReader[Any]", num_bytes: int | None = None) -> Iterator[TarMember]:
    """Yield the files and links of a tar in its order; folders, devices and sparse files are not.

    Args:
        data: The tar, at its beginning; it may be moved between members.
        num_bytes: Its size; None if unknown.

    Raises:
        CompressedTar: it is compressed.
        DamagedTar: it is cut off or damaged, or no tar. What was yielded is whole, if the size is
            given.
    """
    if kind := compression_of(data.peek(max(map(len, _COMPRESSED)))):
        raise CompressedTar(f"is compressed ({kind}), not an uncompressed tar")
    try:
        tar = TarFile(fileobj=data, mode="r", encoding="utf-8", errors="surrogateescape")
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            if header.size < 0 or (num_bytes is not None and _is_cut(header, num_bytes)):
                raise ValueError(f"it ends within {header.name!r}")
            yield from _member(header)
        data.seek(tar.offset)
        if (end_mark := data.read(BLOCKSIZE)).strip(b"\0") or not end_mark:
            raise ValueError("there is neither a member nor the end of the tar")
    except (TarError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DamagedTar(
            f"is damaged before byte {data.tell():,}, or not an uncompressed tar: {reason}"
        ) from error


def compression_of(head: bytes) -> str | None:
    """Return what a file is compressed with by its first bytes; None if it is not."""
    return next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)


def sample_of(name: str, suffixes: Collection[str]) -> tuple[str, str | None, str]:
    """Split a member's name into key, key up to the first dot if that differs, and suffix.

    Members of one key are one sample of a WebDataset, whose keys end at the first dot. The suffix
    is "" if it is not one of `suffixes`.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    suffix = posixpath.splitext(base)[1]
    if not stem or suffix.lower() not in suffixes:
        return name, None, ""
    is_dotted = f".{rest}" != suffix
    return name.removesuffix(suffix), folder + slash + stem if is_dotted else None, suffix.lower()


def sample_key(name: str) -> str:
    """Return the key of the sample that a member belongs to: its name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _is_cut(header: TarInfo, num_bytes: int) -> bool:
    # The size of a sparse file is that of the file, not its size in the tar.
    return not header.issparse() and header.offset_data + header.size > num_bytes


def _member(header: TarInfo) -> Iterator[TarMember]:
    name = header.name.removeprefix("./")
    if header.isreg() and not header.issparse():
        yield TarMember(name, header.offset_data, header.size, None)
    elif header.islnk() or header.issym():
        yield TarMember(name, 0, 0, _target(header))


def _target(header: TarInfo) -> str:
    if header.islnk():
        return header.linkname.removeprefix("./")
    folder = posixpath.dirname(header.name)
    return posixpath.normpath(posixpath.join(folder, header.linkname))
