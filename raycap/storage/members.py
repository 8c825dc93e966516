"""Addresses of files within tars: `s3://bucket/00012.tar#offset=1536&size=14220`.

A member is a span of its tar, so that it can be read without the members before it. The fragment is
no secret: `Address.shown` keeps it behind the address of the tar, from which a signature is gone.
"""

import re
from typing import NamedTuple

TAR = ".tar"
"""Suffix of a tar, in lower case."""

_SPAN = re.compile(r"#offset=([0-9]{1,18})&size=([0-9]{1,18})\Z")
_WEB = re.compile(r"https?://", re.IGNORECASE)


class Member(NamedTuple):
    """A file within a tar."""

    tar: str
    """Address of the tar."""
    offset_bytes: int
    """Where the content of the file begins."""
    size_bytes: int

    @property
    def uri(self) -> str:
        """Its address, as `member_of` reads it."""
        return f"{self.tar}#offset={self.offset_bytes}&size={self.size_bytes}"


def member_of(uri: str) -> Member | None:
    """Return what an address names within a tar; None if it names no member of one."""
    found = _SPAN.search(uri) if "#offset=" in uri else None
    if found is None or not names_tar(tar := uri[: found.start()]):
        return None
    return Member(tar=tar, offset_bytes=int(found[1]), size_bytes=int(found[2]))


def span_of(uri: str) -> str:
    """Return what follows the address of the tar in that of a member; empty if there is no span."""
    found = _SPAN.search(uri)
    return found[0] if found else ""


def path_of(uri: str) -> str:
    """Return an address without the query of a web address, so that it ends with its name."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if _WEB.match(uri) else uri


def names_tar(uri: str) -> bool:
    """Whether an address is that of a tar, by its name."""
    return path_of(uri).lower().endswith(TAR)


def member_version(tar_version: str | None, member: Member) -> str | None:
    """Return the version of a member: that of its tar, and its place; None where none is known."""
    return None if tar_version is None else f"{tar_version}#{member.offset_bytes}"


def tar_version_of(version: str | None) -> str | None:
    """Return the version of the tar in the version of a member."""
    return None if version is None else version.rpartition("#")[0]
