"""Context beside the images of a folder or prefix: one metadata file, or sidecars.

Both join a listing as it streams by in key order, so memory does not grow with the source.
"""

import logging
import posixpath
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.context import (
    FILE_NAME,
    MAX_SIDECAR_BYTES,
    SIDECAR_SUFFIXES,
    Wanted,
    encode_sidecars,
    fields_of_sidecar,
)
from raycap.captioning.sorting import OnRepeated, sort_unique
from raycap.datasets.readers.files import AnnotationFile, paged
from raycap.datasets.readers.image_folders import with_slashes
from raycap.datasets.readers.rows import text_of
from raycap.datasets.readers.table_rows import FAULT, column_names, form_of, read_placed_rows
from raycap.errors import UNREADABLE, ConfigError, DatasetError, ImageError
from raycap.images.names import why_no_image
from raycap.schema import CONTEXT, IMAGE_ID, MANIFEST, URI
from raycap.storage.base import KEY, LISTING, Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import listed

logger = logging.getLogger(__name__)

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Hugging Face's names; the first that exists is read."""

_PAGE_ROWS = 65_536
NUM_PROBED = 256
"""Sidecars that are read to see which fields there are."""


def find_metadata(store: Store) -> AnnotationFile | None:
    """Return the metadata file of a folder or prefix; None if it has none."""
    files = [AnnotationFile(store=store, key=name) for name in METADATA_NAMES]
    return next((file for file in files if file.exists()), None)


def metadata_fields(file: AnnotationFile, wanted: Iterable[str]) -> list[str]:
    """Return the columns of a metadata file.

    Raises:
        ConfigError: it has no column of file names.
        DatasetError: it cannot be parsed.
    """
    names = column_names(file, form_of(file), {FILE_NAME, *wanted})
    if FILE_NAME not in names:
        raise ConfigError(
            f"{file.uri}: has no column '{FILE_NAME}'; name the column of the images' paths so",
            uri=file.uri,
        )
    return names


def with_metadata(
    images: Iterable[pa.Table], file: AnnotationFile, wanted: Wanted
) -> Iterator[pa.Table]:
    """Add the context of a metadata file to the images of a listing.

    Args:
        images: MANIFEST tables, sorted by image id.
        file: The metadata; its `file_name` is the path of an image relative to it.
        wanted: The columns to take.

    Raises:
        ConfigError: no image has a row in it.
        DatasetError: a row cannot be read, or an image has two different ones.
    """
    num_images = num_known = 0
    tables = sort_unique(_metadata(file, wanted), on_repeated=_refuse_repeated(file))
    with closing(tables):  # its files on disk, even if the listing is limited
        rows = _Sorted(tables)
        for table in images:
            known = rows.take_through(table[IMAGE_ID][-1].as_py())
            index = pc.index_in(table[IMAGE_ID], value_set=known[IMAGE_ID].combine_chunks())
            num_images += len(table)
            num_known += len(table) - index.null_count
            yield _with_context(table, pc.fill_null(known[CONTEXT].take(index), wanted.encode({})))
    if num_images and not num_known:
        raise ConfigError(
            f"{file.uri}: no image of the source has a row in it; its '{FILE_NAME}' must be the "
            "path of the image relative to that file",
            uri=file.uri,
        )
    logger.info("metadata_joined images=%d with_metadata=%d", num_images, num_known)


def _metadata(file: AnnotationFile, wanted: Wanted) -> Iterator[pa.Table]:
    """Yield the rows of a metadata file as MANIFEST tables, with their place as address."""
    names = (FILE_NAME, *wanted.names)

    def choose(columns: pa.Schema) -> list[str]:
        return [name for name in columns.names if name in names]

    for page in paged(read_placed_rows(file, form_of(file), choose), _PAGE_ROWS):
        rows = []
        for place, row in page:
            name = with_slashes(text_of(row.get(FILE_NAME)))
            if FAULT in row or not name:
                reason = row.get(FAULT, f"no '{FILE_NAME}'")
                raise DatasetError(f"{file.uri}: {place}: {reason}", uri=file.uri)
            context = wanted.encode(row)
            rows.append({IMAGE_ID: name.removeprefix("./"), URI: place, CONTEXT: context})
        yield pa.Table.from_pylist(rows, schema=MANIFEST)


def _refuse_repeated(file: AnnotationFile) -> OnRepeated:
    def refuse(image_id: str, kept: str, dropped: str) -> None:
        raise DatasetError(
            f"{file.uri}: has two rows of {image_id}, {kept} and {dropped}; leave one of them",
            uri=file.uri,
        )

    return refuse


class _Sorted:
    """A stream of tables sorted by image id, read up to a given id at a time."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest = MANIFEST.empty_table()

    def take_through(self, last: str) -> pa.Table:
        """Return the next rows up to and including an id."""
        taken: list[pa.Table] = []
        while True:
            stop = pc.sum(pc.less_equal(self._rest[IMAGE_ID], last)).as_py() or 0
            taken.append(self._rest.slice(0, stop))
            self._rest = self._rest.slice(stop)
            if len(self._rest):
                return pa.concat_tables(taken)
            following = next(self._tables, None)
            if following is None:
                return pa.concat_tables(taken)
            self._rest = following


def _with_context(images: pa.Table, contexts: pa.ChunkedArray) -> pa.Table:
    at = MANIFEST.get_field_index(CONTEXT)
    return images.set_column(at, MANIFEST.field(at), contexts)


def without(tables: Iterable[pa.Table], key: str) -> Iterator[pa.Table]:
    """Leave one file out of a listing."""
    for table in tables:
        kept = table.filter(pc.not_equal(table[KEY], key))
        if len(kept):
            yield kept


@dataclass(slots=True)
class _Found:
    """A listed sidecar."""

    etag: str | None
    is_used: bool = False


def with_sidecars(tables: Iterable[pa.Table], skipped: Counter[str]) -> Iterator[pa.Table]:
    """Take the sidecars out of a listing, and give their ETags to the files they belong to.

    The sidecars of `a/b.jpg` are `a/b.json` and `a/b.txt`, or else `a/b.jpg.json` and
    `a/b.jpg.txt`. In key order all of them are near their image: a file waits until the listing has
    passed the names that begin like it.

    Args:
        tables: LISTING tables, sorted by key.
        skipped: Counts the sidecars of no file, by suffix.

    Yields:
        LISTING tables with a column `context`.
    """
    for page in paged(_paired(_files(tables), skipped), _PAGE_ROWS):
        yield pa.Table.from_pylist(page, schema=_PAIRED)


_PAIRED = pa.schema([*LISTING, MANIFEST.field(CONTEXT)])
_File = tuple[str, int | None, str | None]  # key, size, ETag


def _files(tables: Iterable[pa.Table]) -> Iterator[_File]:
    for table in tables:
        yield from zip(*(table[name].to_pylist() for name in LISTING.names), strict=True)


def _paired(files: Iterator[_File], skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    waiting: deque[_File] = deque()
    found: dict[str, _Found] = {}
    for key, size, etag in files:
        while waiting and _end(_stem(waiting[0][0])) <= key:
            yield _with_its_sidecars(waiting.popleft(), found)
        if not waiting and found:
            found = _dropped(found, key, skipped)
        if is_sidecar(key):
            found[key] = _Found(etag)
        else:
            waiting.append((key, size, etag))
    for file in waiting:
        yield _with_its_sidecars(file, found)
    _dropped(found, None, skipped)


def is_sidecar(key: str) -> bool:
    """Whether a file can be a sidecar, by its name."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and name.lower().endswith(SIDECAR_SUFFIXES)


def _stem(key: str) -> str:
    return posixpath.splitext(key)[0]


def _end(stem: str) -> str:
    """Return the least key after all those that begin with a stem and a dot."""
    return f"{stem}/"  # the character after the dot


def _dropped(found: dict[str, _Found], key: str | None, skipped: Counter[str]) -> dict[str, _Found]:
    """Forget the sidecars that files from a key on cannot have; count those that none had."""
    kept = {}
    for name, sidecar in found.items():
        if key is not None and key < _end(_stem(name)):
            kept[name] = sidecar
        elif not sidecar.is_used:
            skipped[why_no_image(name) or posixpath.splitext(name)[1]] += 1
    return kept


def _with_its_sidecars(file: _File, found: Mapping[str, _Found]) -> dict[str, Any]:
    key, size, etag = file
    etags: dict[str, str] = {}
    for suffix in SIDECAR_SUFFIXES:
        name = next((n for n in (key + suffix, _stem(key) + suffix) if n in found), None)
        if name is not None:
            found[name].is_used = True
            etags[name.rpartition("/")[2]] = found[name].etag or ""
    return dict(zip(_PAIRED.names, (key, size, etag, encode_sidecars(etags)), strict=True))


def sidecar_fields(store: Store, wanted: Collection[str], num_threads: int) -> list[str]:
    """Return the fields in the first sidecars of a folder or prefix, until all wanted are found.

    Args:
        store: The folder or prefix.
        wanted: The fields that a run uses.
        num_threads: Sidecars to read at the same time.

    Raises:
        StorageError: it cannot be read.
    """
    keys = (key for table in listed(store) for key in table[KEY].to_pylist() if is_sidecar(key))
    names: dict[str, None] = {}
    read = partial(_fields_of, store)
    for found in ordered_map(read, islice(keys, NUM_PROBED), num_threads):
        names.update(dict.fromkeys(found))
        if names.keys() >= set(wanted):
            break
    return list(names)


def _fields_of(store: Store, key: str) -> list[str]:
    """Return the fields of a sidecar; none where it cannot be read, which its image's row says."""
    try:
        return list(fields_of_sidecar(key, store.read_range(key, 0, MAX_SIDECAR_BYTES + 1)))
    except (ImageError, *UNREADABLE):
        return []
