"""Grouping of captions in any order by image, and rejection of what cannot be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from raycap.results.dataset import RejectReason
from raycap.scratch import scratch_database
from raycap.storage.address import redact

if TYPE_CHECKING:
    import duckdb

_PAGE_ROWS = 8_192
_POSITION = "position"


class Notes:
    """What whoever prepares a dataset should know about the source, with counts and examples."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, what: str, count: int = 1, *, example: str = "") -> None:
        """Count something; the first example is kept."""
        self._counts[what] = self._counts.get(what, 0) + count
        self._examples.setdefault(what, example)

    def texts(self) -> list[str]:
        """Return one line each."""
        return [
            f"{count:,} {what}"
            + (f", such as {self._examples[what]}" if self._examples[what] else "")
            for what, count in self._counts.items()
        ]


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
    fault: str | None = None
    """Why the caption cannot be read."""


@dataclass(slots=True)
class _File:
    """One file with an id, and its captions."""

    first: AnnotationRow
    captions: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    faults: list[str | None] = field(default_factory=list)
    """For each row whose caption is missing or not text, why, if that is known."""
    splits: set[str] = field(default_factory=set)

    def add(self, row: AnnotationRow) -> None:
        if row.caption is None:
            self.faults.append(row.fault)
        else:
            (self.captions if row.caption.strip() else self.empty).append(row.caption)
        if row.split is not None:
            self.splits.add(row.split)

    @property
    def num_lost(self) -> int:
        """Captions that are not text: rows without one, if there are other rows."""
        return len(self.faults) if self.captions or self.empty else 0

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
        lost = [("", why or "it is missing, or not text") for why in self.faults[: self.num_lost]]
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
    tables: Iterable[pa.Table],
    memory_bytes: int,
    *,
    needs_image: bool,
    notes: Notes | None = None,
) -> Iterator[Group]:
    """Group ANNOTATIONS by image id, in UTF-8 byte order of the ids.

    Sorting uses the disk beyond `memory_bytes`. The captions of an image keep the order of the
    tables. If two tars have an image of the same name, as tars that each count from 0 do, the
    images of all tars are named by their tar too.

    Args:
        tables: ANNOTATIONS, in any order.
        memory_bytes: memory limit of the sorting.
        needs_image: reject captions whose image is not in the source.
        notes: told about names that were changed.
    """
    with scratch_database(memory_bytes) as database:
        _load(database, tables)
        num_renamed = _name_by_tar(database)
        if notes is not None and num_renamed:
            notes.add(_NAMED_BY_TAR, num_renamed)
        for image_id, rows in groupby(_sorted_rows(database), key=lambda row: row.image_id):
            yield group_rows(image_id, rows, needs_image=needs_image)


def group_rows(image_id: str, rows: Iterable[AnnotationRow], *, needs_image: bool) -> Group:
    """Choose among the rows of one id: the first file that has captions is kept.

    A row without a caption means an image without any or, beside other rows, a caption that
    cannot be read.
    """
    files: dict[tuple[str | None, int | None], _File] = {}
    for row in rows:
        # An address that is signed twice is one file.
        address = None if row.uri is None else redact(row.uri)
        files.setdefault((address, row.offset_bytes), _File(row)).add(row)
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
            "all its captions are empty" if file.empty else _why_none(file),
        )
    if len(file.splits) > 1:
        return RejectReason.SPLIT_CONFLICT, f"it is in {' and '.join(sorted(file.splits))}"
    if kept is not None:
        return RejectReason.DUPLICATE_ID, f"{redact(kept.first.uri or '')} has the same id"
    return None


def _why_none(file: _File) -> str:
    why = next(filter(None, file.faults), None)
    return f"its caption cannot be read: {why}" if why else "it has no caption"


def _load(database: "duckdb.DuckDBPyConnection", tables: Iterable[pa.Table]) -> None:
    database.execute(
        "CREATE TABLE annotations (image_id VARCHAR, source_id VARCHAR, uri VARCHAR, "
        "offset_bytes BIGINT, size_bytes BIGINT, split VARCHAR, caption VARCHAR, fault VARCHAR, "
        "position BIGINT)"
    )
    num_rows = 0
    for table in tables:
        positions = pa.array(range(num_rows, num_rows + len(table)), pa.int64())
        page = table.append_column(_POSITION, positions)
        database.register("page", page)
        database.execute("INSERT INTO annotations SELECT * FROM page")
        database.unregister("page")
        num_rows += len(table)


_NAMED_BY_TAR = "images are named by their tar and name, as tars have images of the same name"
_IN_TARS = "offset_bytes IS NOT NULL"
_SAME_NAME = f"""
    SELECT 1 FROM annotations WHERE {_IN_TARS}
    GROUP BY image_id HAVING count(DISTINCT uri) > 1 LIMIT 1
"""


def _name_by_tar(database: "duckdb.DuckDBPyConnection") -> int:
    """Name the images of tars by tar and name if names repeat; return how many were renamed.

    The reader of tars gives that name as `source_id`.
    """
    if not database.execute(_SAME_NAME).fetchall():
        database.execute(f"UPDATE annotations SET source_id = NULL WHERE {_IN_TARS}")
        return 0
    database.execute(
        f"UPDATE annotations SET image_id = source_id, source_id = image_id WHERE {_IN_TARS}"
    )
    query = f"SELECT count(DISTINCT image_id) FROM annotations WHERE {_IN_TARS}"
    ((num_images,),) = database.execute(query).fetchall()
    return int(num_images)


def _sorted_rows(database: "duckdb.DuckDBPyConnection") -> Iterator[AnnotationRow]:
    query = (
        "SELECT image_id, source_id, uri, offset_bytes, size_bytes, split, caption, fault "
        "FROM annotations ORDER BY image_id, position"
    )
    for batch in database.sql(query).to_arrow_reader(_PAGE_ROWS):
        yield from map(AnnotationRow._make, zip(*(c.to_pylist() for c in batch), strict=True))
