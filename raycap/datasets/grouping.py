"""Grouping of captions in any order by image, and rejection of what cannot be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import duckdb
import pyarrow as pa

from raycap.results.dataset import RejectReason
from raycap.scratch import scratch_database

_PAGE_ROWS = 8_192
_POSITION = "position"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImage:
    """An image with all its captions, in the order of the source."""

    image_id: str
    source_id: str | None
    uri: str | None
    offset_bytes: int | None
    size_bytes: int | None
    split: str | None
    """As in the source; None if it has none."""
    captions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A rejected caption or, where `caption` is None, a rejected image."""

    image_id: str
    uri: str | None
    caption: str | None
    reason: str
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Everything that the source has for one image id."""

    image_id: str
    image: AnnotatedImage | None
    """None: everything is rejected."""
    rejections: list[Rejection]
    num_images: int
    """Distinct files with that id; if there is no file, the id counts as one."""
    num_captions: int


class AnnotationRow(NamedTuple):
    """A row of ANNOTATIONS."""

    image_id: str
    source_id: str | None
    uri: str | None
    offset_bytes: int | None
    size_bytes: int | None
    split: str | None
    caption: str | None


@dataclass(slots=True)
class _File:
    """One file with an id, and its captions."""

    first: AnnotationRow
    captions: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    num_textless: int = 0
    """Rows whose caption is missing or not text."""
    splits: set[str] = field(default_factory=set)

    def add(self, row: AnnotationRow) -> None:
        if row.caption is None:
            self.num_textless += 1
        else:
            (self.captions if row.caption.strip() else self.empty).append(row.caption)
        if row.split is not None:
            self.splits.add(row.split)

    @property
    def num_lost(self) -> int:
        """Captions that are not text: rows without one, if there are other rows."""
        return self.num_textless if self.captions or self.empty else 0

    @property
    def num_captions(self) -> int:
        return len(self.captions) + len(self.empty) + self.num_lost

    def reject(self, reason: RejectReason, message: str) -> Iterator[Rejection]:
        """Yield a rejection for the image, and one for each caption not rejected already."""
        for caption in (None, *self.captions):
            yield Rejection(
                image_id=self.first.image_id,
                uri=self.first.uri,
                caption=caption,
                reason=reason,
                message=message,
            )

    def reject_empty(self) -> Iterator[Rejection]:
        lost = [("", "it is missing, or not text")] * self.num_lost
        for caption, message in [*((caption, None) for caption in self.empty), *lost]:
            yield Rejection(
                image_id=self.first.image_id,
                uri=self.first.uri,
                caption=caption,
                reason=RejectReason.EMPTY_CAPTION,
                message=message,
            )

    def image(self) -> AnnotatedImage:
        return AnnotatedImage(
            image_id=self.first.image_id,
            source_id=self.first.source_id,
            uri=self.first.uri,
            offset_bytes=self.first.offset_bytes,
            size_bytes=self.first.size_bytes,
            split=next(iter(self.splits), None),
            captions=self.captions,
        )


def read_groups(
    tables: Iterable[pa.Table], memory_bytes: int, *, needs_image: bool
) -> Iterator[Group]:
    """Group ANNOTATIONS by image id, in UTF-8 byte order of the ids.

    Sorting uses the disk beyond `memory_bytes`. The captions of an image keep the order of the
    tables.

    Args:
        tables: ANNOTATIONS, in any order.
        memory_bytes: memory limit of the sorting.
        needs_image: reject captions whose image is not in the source.
    """
    with scratch_database(memory_bytes) as database:
        _load(database, tables)
        for image_id, rows in groupby(_sorted_rows(database), key=lambda row: row.image_id):
            yield group_rows(image_id, rows, needs_image=needs_image)


def group_rows(image_id: str, rows: Iterable[AnnotationRow], *, needs_image: bool) -> Group:
    """Choose among the rows of one id: the first file that has captions is kept.

    A row without a caption means an image without any or, beside other rows, a caption that
    cannot be read.
    """
    files: dict[tuple[str | None, int | None], _File] = {}
    for row in rows:
        files.setdefault((row.uri, row.offset_bytes), _File(row)).add(row)
    kept: _File | None = None
    rejections: list[Rejection] = []
    for file in files.values():
        rejections += file.reject_empty()
        fault = _fault(file, kept, needs_image=needs_image)
        if fault is None:
            kept = file
        else:
            rejections += file.reject(*fault)
    return Group(
        image_id=image_id,
        image=kept.image() if kept else None,
        rejections=rejections,
        num_images=len(files),
        num_captions=sum(file.num_captions for file in files.values()),
    )


def _fault(
    file: _File, kept: _File | None, *, needs_image: bool
) -> tuple[RejectReason, str] | None:
    if needs_image and file.first.uri is None:
        return RejectReason.NO_IMAGE, "the source has no image with this id"
    if not file.captions:
        return (
            RejectReason.NO_CAPTION,
            "all its captions are empty" if file.empty else "it has no caption",
        )
    if len(file.splits) > 1:
        return RejectReason.SPLIT_CONFLICT, f"it is in {' and '.join(sorted(file.splits))}"
    if kept is not None:
        return RejectReason.DUPLICATE_ID, f"{kept.first.uri} has the same id"
    return None


def _load(database: duckdb.DuckDBPyConnection, tables: Iterable[pa.Table]) -> None:
    database.execute(
        "CREATE TABLE annotations (image_id VARCHAR, source_id VARCHAR, uri VARCHAR, "
        "offset_bytes BIGINT, size_bytes BIGINT, split VARCHAR, caption VARCHAR, position BIGINT)"
    )
    num_rows = 0
    for table in tables:
        positions = pa.array(range(num_rows, num_rows + len(table)), pa.int64())
        page = table.append_column(_POSITION, positions)
        database.register("page", page)
        database.execute("INSERT INTO annotations SELECT * FROM page")
        database.unregister("page")
        num_rows += len(table)


def _sorted_rows(database: duckdb.DuckDBPyConnection) -> Iterator[AnnotationRow]:
    query = (
        "SELECT image_id, source_id, uri, offset_bytes, size_bytes, split, caption "
        "FROM annotations ORDER BY image_id, position"
    )
    for batch in database.sql(query).to_arrow_reader(_PAGE_ROWS):
        yield from map(AnnotationRow._make, zip(*(c.to_pylist() for c in batch), strict=True))
