"""Export of the captions of tars as tars with the same names, whose samples have the same keys.

`whole` tars replace those of the source: the samples that have a caption, with all their members.
Tars of `captions` stand beside them, in the same order, as readers of WebDataset join columns. In
both, `.txt` is the caption and `.json` its row.

Each tar is read once, from its beginning to its end.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader, BytesIO
from itertools import groupby
from tarfile import PAX_FORMAT, TarFile, TarInfo
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from raycap.captioning.output import SOURCE_URI
from raycap.captioning.parts import MANIFEST, read_part
from raycap.errors import UNREADABLE, ConfigError
from raycap.exporting import formats
from raycap.exporting.columns import shown_in
from raycap.exporting.destination import NUM_SHOWN, staged
from raycap.exporting.selection import Selection
from raycap.exporting.values import as_json, plainer, rows_of
from raycap.images.names import IMAGE_SUFFIXES
from raycap.results.captioning import ExportCounts
from raycap.schema import CAPTION, ETAG, IMAGE_ID, ROW, URI
from raycap.storage.address import Address
from raycap.storage.base import Store
from raycap.storage.local import display
from raycap.storage.members import Member, member_of, path_of, tar_version_of
from raycap.storage.parallel import ordered_map
from raycap.storage.ranged import RangedFile
from raycap.storage.stores import ImageReader
from raycap.storage.tars import DamagedTar, TarMember, sample_key, sample_of, tar_members

_TAR_THREADS = 4
_PARTS_KEPT = 8  # several small tars may have their rows in one part
_BLOCK_BYTES = 4_194_304
_MOST_BYTES = 2**62  # the end of a tar shows as it is read
_CAPTION_SUFFIXES = (".json", ".txt")
_SHOWN = "shown"  # of a row: its JSON

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTar:
    """A tar of the source of a run."""

    key: str
    """Its path below the source, with which its images' ids begin; also its key in the export."""
    uri: str
    parts: tuple[int, ...]
    """The parts that have rows of its images."""


class _Rows(NamedTuple):
    """The rows of a tar."""

    captioned: list[Row]
    num_without: int
    """Images without a caption."""


class _Changed(Exception):
    """A tar that changed while it was read; what was written of it is dropped."""


def tars_of(source: Selection) -> list[SourceTar]:
    """Return the tars that the images of a run are in; none if they are in no tars."""
    parts: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def found(number: int) -> dict[tuple[str, str], None]:
        table = read_part(source.store, MANIFEST, number, [IMAGE_ID, URI])
        rows = zip(table[IMAGE_ID].to_pylist(), table[URI].to_pylist(), strict=True)
        members = [(image_id, m.tar) for image_id, uri in rows if (m := member_of(uri)) is not None]
        keys = ((_key_of(image_id, tar), tar) for image_id, tar in members)
        return dict.fromkeys((key, tar) for key, tar in keys if key is not None)

    pages = ordered_map(found, source.parts, source.output.read_ahead)
    for number, tars in zip(source.parts, pages, strict=True):
        for tar in tars:
            parts[tar].append(number)
    return [SourceTar(key=k, uri=uri, parts=tuple(n)) for (k, uri), n in sorted(parts.items())]


def _key_of(image_id: str, tar: str) -> str | None:
    """Return the path of a tar in the id of an image: the longest with which its address ends.

    None if there is none: a list may name members of tars by any id.
    """
    path = f"/{path_of(tar)}"
    pieces = image_id.split("/")
    keys = ("/".join(pieces[:end]) for end in range(len(pieces) - 1, 0, -1))
    ends = (path, unquote(path))
    return next((key for key in keys if key and any(end.endswith(f"/{key}") for end in ends)), None)


def export_shards(
    source: Selection, tars: list[SourceTar], store: Store, *, is_whole: bool
) -> ExportCounts:
    """Write a tar for each tar of the source.

    Args:
        source: The captions.
        tars: The tars of the source.
        store: The folder to write to.
        is_whole: Write images and the other members of their samples too.

    Raises:
        ConfigError: a tar would overwrite that of the source.
        StorageError: a store refuses.
    """
    for tar in tars:
        if _is_same(store.address(tar.key), tar.uri):
            raise ConfigError(
                f"{tar.uri}: is a tar of the source, which is never overwritten; give another "
                "destination",
                uri=tar.uri,
            )
    part = lru_cache(maxsize=_PARTS_KEPT)(source.part)
    reader = ImageReader(source.config)

    def _stage(tar: SourceTar, rows: list[Row]) -> int:
        with (
            staged(store, tar.key) as file,
            TarFile(fileobj=file, mode="w", format=PAX_FORMAT, encoding="utf-8") as sink,
        ):
            num_written = _written(sink, tar, rows, reader, is_whole=is_whole)
            if is_whole and (why := _why_unusable(tar, rows, reader)) is not None:
                raise _Changed(why)
        return num_written

    def write(tar: SourceTar) -> ExportCounts:
        rows, num_without = _rows_of(tar, part, source)
        why = _why_unusable(tar, rows, reader) if is_whole else None
        num_written = 0
        if rows and why is None:
            try:
                num_written = _stage(tar, rows)
            except _Changed as error:
                why = str(error)
        lost = len(rows) - num_written
        why = why or (f"{tar.uri}: {lost:,} of its images are no longer in it" if lost else None)
        return ExportCounts(
            num_exported=num_written,
            num_failed_skipped=num_without,
            num_unreadable=lost,
            unreadable=() if why is None else (why,),
        )

    counts = list(ordered_map(write, tars, _TAR_THREADS))
    return ExportCounts(
        num_exported=sum(one.num_exported for one in counts),
        num_failed_skipped=sum(one.num_failed_skipped for one in counts),
        num_unreadable=sum(one.num_unreadable for one in counts),
        unreadable=tuple(told for one in counts for told in one.unreadable)[:NUM_SHOWN],
        num_files=sum(bool(one.num_exported) for one in counts),
    )


def _is_same(destination: str, tar: str) -> bool:
    if Address.parse(tar).is_local:
        return os.path.realpath(destination) == os.path.realpath(tar)
    return destination == tar


def _rows_of(tar: SourceTar, part: Callable[[int], pa.Table], source: Selection) -> _Rows:
    """Return the captioned rows of a tar in its order."""
    rows: list[Row] = []
    num_without = 0
    for number in tar.parts:
        table = part(number)
        members = [member_of(uri) for uri in table[SOURCE_URI].to_pylist()]
        is_in = pa.array([m is not None and m.tar == tar.uri for m in members], pa.bool_())
        found = table.filter(is_in)
        captioned = formats.captioned(found)
        num_without += len(found) - len(captioned)
        plain = plainer(captioned.drop_columns([ROW, SOURCE_URI]).schema)
        for row in rows_of(captioned):
            kept = {name: value for name, value in row.items() if name not in (ROW, SOURCE_URI)}
            rows.append({**row, _SHOWN: as_json(shown_in(source.chosen, plain(kept)))})
    return _Rows(sorted(rows, key=_place), num_without)


def _member(row: Row) -> Member:
    member = member_of(row[SOURCE_URI])
    assert member is not None  # as `_rows_of` has found
    return member


def _place(row: Row) -> int:
    return _member(row).offset_bytes


def _why_unusable(tar: SourceTar, rows: list[Row], reader: ImageReader) -> str | None:
    """Say why a tar is not the one whose images were captioned; None if it is."""
    try:
        version = reader.tar_version(tar.uri)
    except UNREADABLE as error:
        return str(error)
    listed = {tar_version_of(row[ETAG]) for row in rows} - {None}
    if version is not None and listed - {version}:
        return (
            f"{tar.uri}: has changed since its images were captioned; run the same `raycap "
            "caption` command again, then export again"
        )
    return None


def _written(
    sink: TarFile, tar: SourceTar, rows: list[Row], reader: ImageReader, *, is_whole: bool
) -> int:
    """Write the samples of a tar; return the number of captions in it."""
    if not is_whole:
        for row in rows:
            _add_caption(sink, tar, row)
        return len(rows)
    num_written = 0
    with BufferedReader(RangedFile(reader, tar.uri, _MOST_BYTES), _BLOCK_BYTES) as data:
        for members, captioned in _samples(tar, rows, data):
            for name, content in members:
                _add(sink, name, content)
            for row in captioned:
                _add_caption(sink, tar, row)
            num_written += len(captioned)
    return num_written


def _samples(
    tar: SourceTar, rows: list[Row], data: "BufferedReader[Any]"
) -> Iterator[tuple[list[tuple[str, bytes]], list[Row]]]:
    """Yield the members of the samples that have a caption, but those that it replaces."""
    images = {_name(tar, row): row for row in rows}
    keys = {sample_key(name) for name in images}
    replaced = {_key(name) + suffix for name in images for suffix in _CAPTION_SUFFIXES}
    for key, group in groupby(_until_damage(data), lambda member: sample_key(display(member.name))):
        if key not in keys:
            continue
        members: list[tuple[str, bytes]] = []
        captioned: list[Row] = []
        for member in group:
            name = display(member.name)
            row = images.get(name)
            # Of two members of one name, the later one was captioned; a link has another place.
            place = member.offset_bytes if row is None else _place(row)
            is_other = member.target is None and place != member.offset_bytes
            if name in replaced or is_other or (row is None and member.target is not None):
                continue
            num_bytes = member.size_bytes if row is None else _member(row).size_bytes
            data.seek(place)
            content = data.read(num_bytes)
            if len(content) == num_bytes:
                members.append((member.name, content))
                captioned += [] if row is None else [row]
        yield members, captioned


def _until_damage(data: "BufferedReader[Any]") -> Iterator[TarMember]:
    """Yield the members of a tar before its damage, which has a row in the output."""
    with suppress(DamagedTar):
        yield from tar_members(data)


def _add_caption(sink: TarFile, tar: SourceTar, row: Row) -> None:
    key = _key(_name(tar, row))
    _add(sink, f"{key}.json", row[_SHOWN].encode())
    _add(sink, f"{key}.txt", row[CAPTION].encode())


def _add(sink: TarFile, name: str, content: bytes) -> None:
    header = TarInfo(name)  # owner, mode and time are the same for all
    header.size = len(content)
    sink.addfile(header, BytesIO(content))


def _name(tar: SourceTar, row: Row) -> str:
    """Return the name of the member that is the image of a row."""
    name: str = row[IMAGE_ID].removeprefix(f"{tar.key}/")
    return name


def _key(name: str) -> str:
    return sample_of(name, IMAGE_SUFFIXES)[0]
