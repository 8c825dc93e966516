"""Reading of images in tars: neighbours by one request, and only what is asked for.

A request takes about as long as transferring 2 MB, so images that are near each other in a tar are
read together, with the text members in between. Each span is checked against the version of its tar
after it was read: in a tar that was packed again, the same place holds another image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from raycap.captioning.context import sidecar_uris
from raycap.captioning.source import File, Row
from raycap.errors import ErrorCode, ImageError, ObjectForbidden, ObjectNotFound, TransientError
from raycap.schema import BESIDE, CONTEXT, ETAG, URI
from raycap.storage.address import redact
from raycap.storage.members import Member, member_of, tar_version_of
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

SPAN_BYTES = 2_097_152
"""Most bytes that are read by one request, unless one image is larger."""

_GAP_BYTES = 65_536  # more between two images is not read


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A row, and the members of a tar that it takes."""

    row: Row
    image: Member
    beside: tuple[Member, ...]

    @property
    def start(self) -> int:
        return min(member.offset_bytes for member in (self.image, *self.beside))

    @property
    def end(self) -> int:
        return max(member.offset_bytes + member.size_bytes for member in (self.image, *self.beside))

    @property
    def num_bytes(self) -> int:
        return sum(member.size_bytes for member in (self.image, *self.beside))


def in_tar(row: Row) -> bool:
    """Whether the image of a row is a member of a tar."""
    return member_of(row[URI]) is not None


def with_member_files(
    rows: Iterable[Row], reader: ImageReader, max_bytes: int, num_threads: int
) -> Iterator[tuple[Row, File | None]]:
    """Pair rows of images in tars with the image files, in the order of the tars.

    Args:
        rows: With `uri`, `etag` and maybe `context`, whose text members are put into `beside`.
        reader: Reads the tars.
        max_bytes: Largest image file; larger ones are not read.
        num_threads: Spans to read at a time; twice as many are in memory.

    Yields:
        Rows with their file, or with None if it must be read by itself, which reports the error.

    Raises:
        StorageError: no tar of a store can be read.
    """
    wanted = sorted(map(_wanted, rows), key=lambda one: (one.image.tar, one.start))
    read = partial(_read, reader=reader, max_bytes=max_bytes)
    for pairs in ordered_map(read, _spans(wanted, max_bytes), num_threads):
        yield from pairs


def _wanted(row: Row) -> _Wanted:
    image = member_of(row[URI])
    assert image is not None  # as `in_tar` has found
    addresses = sidecar_uris(row.get(CONTEXT), row[URI]).values()
    members = [member for uri in addresses if (member := member_of(uri)) is not None]
    near = [m for m in members if abs(m.offset_bytes - image.offset_bytes) <= SPAN_BYTES]
    return _Wanted(row, image, tuple(near))


def _spans(wanted: Iterable[_Wanted], max_bytes: int) -> Iterator[list[_Wanted]]:
    """Group neighbours into spans; an image that is too large is a span of its own."""
    span: list[_Wanted] = []
    for one in wanted:
        if span and not _joins(span, one, max_bytes):
            yield span
            span = []
        span.append(one)
    if span:
        yield span


def _joins(span: list[_Wanted], one: _Wanted, max_bytes: int) -> bool:
    first, last = span[0], span[-1]
    return (
        one.image.tar == first.image.tar
        and max(one.num_bytes, last.num_bytes) <= max_bytes
        and one.start - last.end <= _GAP_BYTES
        and one.end - first.start <= SPAN_BYTES
    )


def _read(
    span: Sequence[_Wanted], reader: ImageReader, max_bytes: int
) -> list[tuple[Row, File | None]]:
    tar, start = span[0].image.tar, span[0].start
    end = max(one.end for one in span)
    if span[0].image.size_bytes > max_bytes or end - start > max(SPAN_BYTES, max_bytes):
        return [(one.row, None) for one in span]
    try:
        data = reader.read_range(tar, start, end - start)
        version = reader.tar_version(tar)
    except TransientError as error:
        # For all of them: trying each would repeat all retries per image.
        return [(one.row, ImageError(error.code, error.message)) for one in span]
    except (ObjectNotFound, ObjectForbidden):
        return [(one.row, None) for one in span]
    return [(one.row, _file(one, data, start, version)) for one in span]


def _file(one: _Wanted, data: bytes, start: int, version: str | None) -> File:
    listed = tar_version_of(one.row[ETAG])
    is_cut = one.end - start > len(data)
    if is_cut or (listed is not None and version is not None and listed != version):
        what = redact(one.image.tar)
        return ImageError(ErrorCode.NOT_FOUND, f"{what}: has changed since its images were listed")
    one.row[BESIDE] = {member.uri: _cut(data, member, start) for member in one.beside}
    return _cut(data, one.image, start)


def _cut(data: bytes, member: Member, start: int) -> bytes:
    at = member.offset_bytes - start
    return data[at : at + member.size_bytes]
