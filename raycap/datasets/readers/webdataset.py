"""WebDataset tars: members whose names are equal up to the first dot are one sample.

Only headers and captions are read; an image is recorded by its position in the tar.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import json
import posixpath
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, NamedTuple

import pyarrow as pa

from raycap import schema
from raycap.config import Lines
from raycap.datasets.readers.base import Folder, Reader, Source
from raycap.datasets.readers.files import AnnotationFile, paged
from raycap.datasets.readers.rows import (
    KEY,
    KEYED_CAPTIONS,
    KEYED_IMAGES,
    PAGE_ROWS,
    POSITION,
    Caption,
    ScratchJoin,
    ScratchTable,
    captions_of,
    files_with_splits,
    scratch_join,
)
from raycap.datasets.readers.sidecars import captions_in
from raycap.datasets.splits import split_in_name, split_of_folder
from raycap.errors import DatasetError
from raycap.images.names import IMAGE_SUFFIXES
from raycap.storage.local import display
from raycap.storage.parallel import ordered_chain
from raycap.storage.tars import DamagedTar, sample_of, tar_members

_SUFFIX = ".tar"
_CAPTION_SUFFIXES = (".json", ".txt", ".caption")  # of a sample, the first that has captions
_JSON_NAMES = (schema.CAPTION, schema.CAPTIONS_LIST, "text")
_MAX_TEXT_BYTES = 1_048_576
_TAR_THREADS = 4

_NAME = "name"
_TARGET = "target"
_DOTTED = "dotted"
_RANK = "rank"
_MEMBERS = pa.schema(
    [
        pa.field(_NAME, pa.string()),
        pa.field(schema.OFFSET_BYTES, pa.int64()),
        pa.field(schema.SIZE_BYTES, pa.int64()),
        pa.field(_TARGET, pa.string()),
    ]
)
"""All members; links have a target, and no position of their own."""
_IMAGES = KEYED_IMAGES.append(pa.field(_DOTTED, pa.string()))
"""Images; `dotted` is the key up to the first dot, for names with a dot before their suffix."""
_CAPTIONS = pa.schema([*KEYED_CAPTIONS, pa.field(_DOTTED, pa.string()), pa.field(_RANK, pa.int8())])


class _Member(NamedTuple):
    """A member of a tar, with the captions in it."""

    name: str
    offset_bytes: int | None
    size_bytes: int | None
    target: str | None
    captions: list[Caption]


def _find(folder: Folder) -> list[AnnotationFile] | None:
    return [] if folder.has_suffix(_SUFFIX) else None


def _read(source: Source) -> Iterator[pa.Table]:
    """Read one tar, or all tars of a folder in order, a few of them at a time.

    An image's id is its member's name; its `source_id` is that of the tar too. The split is that of
    the tar's name (`train-000.tar`), or of the member's folder.
    """
    if source.files:
        (file,) = source.files
        return _read_tar(file, split_in_name(file.name), source.lines)
    files = files_with_splits(source.store, _SUFFIX)
    return ordered_chain(
        (_read_tar(file, split, source.lines) for file, split in files), _TAR_THREADS
    )


def _read_tar(file: AnnotationFile, split: str | None, lines: Lines) -> Iterator[pa.Table]:
    with scratch_join() as join, file.open() as data:
        scan = _Scan(join, file, split, lines)
        for page in paged(_members(file, data, lines), PAGE_ROWS):
            scan.add(page)
        for page in paged(scan.linked(data), PAGE_ROWS):
            scan.add(page)
        scan.finish()
        yield from join.tables()


class _Scan:
    """The contents of a tar, collected before samples can be formed."""

    def __init__(
        self, join: ScratchJoin, file: AnnotationFile, split: str | None, lines: Lines
    ) -> None:
        self._join = join
        self._uri = file.uri
        self._split = split
        self._shard = posixpath.splitext(file.key)[0]
        self._lines = lines
        self._members = ScratchTable(join.database, "members", _MEMBERS)
        self._images = ScratchTable(join.database, "found_images", _IMAGES)
        self._captions = ScratchTable(join.database, "found_captions", _CAPTIONS)

    def add(self, members: list[_Member]) -> None:
        """Add members."""
        rows = [member._asdict() for member in members]
        self._members.add(pa.Table.from_pylist(rows, schema=_MEMBERS))
        images = [row for member in members for row in self._image_rows(member)]
        self._images.add(pa.Table.from_pylist(images, schema=_IMAGES))
        captions = [row for member in members for row in _caption_rows(member)]
        self._captions.add(pa.Table.from_pylist(captions, schema=_CAPTIONS))

    def _image_rows(self, member: _Member) -> Iterator[dict[str, Any]]:
        key, dotted, suffix = sample_of(member.name, IMAGE_SUFFIXES)
        if suffix and member.target is None:
            row = {KEY: key, _DOTTED: dotted, schema.IMAGE_ID: member.name} | member._asdict()
            if member.offset_bytes is not None:
                row |= {
                    schema.URI: self._uri,
                    schema.SOURCE_ID: f"{self._shard}/{member.name}",
                    schema.SPLIT: self._split or split_of_folder(member.name),
                }
            yield row

    def linked(self, data: BufferedReader) -> Iterator[_Member]:
        """Yield links as members at their targets' positions, None if a target is missing."""
        # A cursor of its own: rows are added while it is read.
        cursor = self._join.database.cursor().execute(_LINKED)
        while rows := cursor.fetchmany(PAGE_ROWS):
            for name, offset_bytes, size_bytes in rows:
                captions = _read_captions(data, (name, offset_bytes, size_bytes), self._lines)
                yield _Member(name, offset_bytes, size_bytes, None, captions)

    def finish(self) -> None:
        """Choose the images and captions of each sample, and add them to the join."""
        self._join.database.execute(_CHOOSE_IMAGES)
        self._join.database.execute(_CHOOSE_CAPTIONS)


_LINKED = f"""
    SELECT any_value(link.{_NAME}),
           arg_max(member.{schema.OFFSET_BYTES}, member.{POSITION}),
           arg_max(member.{schema.SIZE_BYTES}, member.{POSITION})
    FROM (FROM members WHERE {_TARGET} IS NOT NULL) AS link
    LEFT JOIN (FROM members WHERE {_TARGET} IS NULL) AS member ON member.{_NAME} = link.{_TARGET}
    GROUP BY link.{POSITION} ORDER BY link.{POSITION}
"""
# `a.seg.png` beside `a.jpg` is another field of that sample. But `st.john.jpg` is an ordinary image
# if the tar has no `st.jpg`: people who pack folders do not think of keys.
_IS_KEPT = f"""
    {_DOTTED} IS NULL
    OR {_DOTTED} NOT IN (SELECT {KEY} FROM found_images WHERE {_DOTTED} IS NULL)
"""
_CHOOSE_IMAGES = f"""
    INSERT INTO images BY NAME
    SELECT * EXCLUDE ({_DOTTED}) FROM found_images WHERE {_IS_KEPT}
"""
_CHOOSE_CAPTIONS = f"""
    INSERT INTO captions BY NAME
    WITH kept AS (FROM found_captions WHERE {_IS_KEPT}),
         best AS (SELECT {KEY}, min({_RANK}) AS {_RANK} FROM kept GROUP BY {KEY})
    SELECT * EXCLUDE ({_DOTTED}, {_RANK}) FROM kept JOIN best USING ({KEY}, {_RANK})
"""


def _members(file: AnnotationFile, data: BufferedReader, lines: Lines) -> Iterator[_Member]:
    """Read a tar's headers, and its captions on the way."""
    try:
        for member in tar_members(data):
            name = display(member.name)
            if member.target is None:
                place = (name, member.offset_bytes, member.size_bytes)
                yield _Member(*place, None, _read_captions(data, place, lines))
            else:
                yield _Member(name, None, None, display(member.target), [])
    except DamagedTar as error:
        raise DatasetError(f"{file.uri}: {error}", uri=file.uri) from error


def _caption_rows(member: _Member) -> Iterator[dict[str, Any]]:
    key, dotted, suffix = sample_of(member.name, _CAPTION_SUFFIXES)
    for caption in member.captions:
        rank = _CAPTION_SUFFIXES.index(suffix)
        if all(other.text is None for other in member.captions):
            rank += len(_CAPTION_SUFFIXES)  # it counts only if there are no others
        said = {schema.CAPTION: caption.text, schema.FAULT: caption.fault}
        yield {KEY: key, _DOTTED: dotted, _RANK: rank} | said


def _read_captions(
    data: BufferedReader, place: tuple[str, int | None, int | None], lines: Lines
) -> list[Caption]:
    """Read the captions of a member; empty if there are none."""
    name, offset_bytes, size_bytes = place
    suffix = sample_of(name, _CAPTION_SUFFIXES)[2]
    if not suffix or offset_bytes is None or size_bytes is None or size_bytes > _MAX_TEXT_BYTES:
        return []
    data.seek(offset_bytes)
    text = data.read(size_bytes)
    found = _json_captions(text) if suffix == ".json" else captions_in(text, lines)
    return found if any(caption != Caption(None) for caption in found) else []


def _json_captions(text: bytes) -> list[Caption]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return []
    given = [fields.get(name) for name in _JSON_NAMES] if isinstance(fields, dict) else []
    return next((captions_of(value) for value in given if value is not None), [])


READER = Reader(
    name="webdataset",
    suffixes=(_SUFFIX,),
    searched=f"{_SUFFIX} files",
    sniff=lambda file: file.suffix == _SUFFIX,
    find=_find,
    read=_read,
    reads=lambda key: key.lower().endswith(_SUFFIX),
    is_folder=True,
    holds_images=True,
)
