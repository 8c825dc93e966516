"""Captions of images in any of the formats that raycap reads, as one table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

import pyarrow as pa

from raycap.config import Lines, StorageConfig
from raycap.datasets.grouping import Notes
from raycap.datasets.readers.base import Reader, Source
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.readers.image_folders import folder_address
from raycap.datasets.readers.recognition import AnnotationFormat, find_files, open_place, recognise
from raycap.errors import ConfigError
from raycap.schema import ETAG, SIZE_BYTES
from raycap.storage.address import Address
from raycap.storage.base import KEY, Store
from raycap.storage.stores import open_store

__all__ = ["AnnotationFormat", "Annotations", "open_annotations"]

_BLOCK_BYTES = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """A source of captions, not read yet."""

    source: str
    """Its absolute address."""
    format: str
    """An AnnotationFormat, or `raycap` for captions of a run."""
    tables: Iterable[pa.Table]
    """ANNOTATIONS, a few rows in memory at a time. Each iteration reads the source again, in the
    same order, and raises DatasetError if a file is damaged, StorageError if a store refuses."""
    notes: Notes
    """What is notable about the source; filled by reading it."""
    state: Callable[[], str]
    """Returns a digest that changes with the files that are read: they are listed or read again.
    Raises StorageError if a store refuses."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """What was chosen from the source, which makes it another source."""


def open_annotations(
    source: str,
    config: StorageConfig,
    *,
    format: AnnotationFormat | None = None,
    images: str | None = None,
    lines: Lines = "all",
) -> Annotations:
    """Open a source of captions; reading begins when `tables` is iterated.

    Args:
        source: a file or a folder, local or in a bucket.
        config: settings of stores.
        format: format of the source; None: recognised by file names and beginnings.
        images: folder of the images; None: searched for where the format usually has them.
        lines: which lines of a caption file beside an image are captions.

    Raises:
        ConfigError: nothing exists at the address, or it is of no known format or not of the given
            one.
        DatasetError: a file that had to be opened is damaged.
        StorageError: a store refuses.
    """
    place = open_place(source, config)
    kind, files = (format, find_files(place, format)) if format else recognise(place)
    if images is not None and kind.reader.holds_images:
        raise ConfigError(
            f"{place.uri}: tars contain their images; omit the folder of images", uri=place.uri
        )
    folder = None if images is None else folder_address(images, config)
    found = Source(store=place.store, files=files, images=folder, config=config, lines=lines)
    return Annotations(
        source=place.uri,
        format=kind,
        tables=_Tables(kind, found),
        notes=found.notes,
        state=partial(_state, kind.reader, found),
    )


def _state(reader: Reader, source: Source) -> str:
    """Return the digest of `Annotations.state`."""
    digest = blake2b(digest_size=16)
    for file in source.files:
        for read in (file, *(found for found in reader.beside(file) if found.exists())):
            _add_file(digest, read)
    if not source.files:
        _add_folder(digest, source.store, reader.reads)
        if source.images is not None and not Address.parse(source.images).is_web:
            _add_folder(digest, open_store(source.images, source.config), reader.reads)
    return digest.hexdigest()


def _add_file(digest: blake2b, file: AnnotationFile) -> None:
    """Add a file: on S3 its ETag, which no local file has that only its content would change."""
    digest.update(f"{file.uri}\0".encode("utf-8", "surrogateescape"))
    if Address.parse(file.uri).is_s3:
        first = next(file.store.list(file.key), None)
        if first is not None and first[KEY][0].as_py() == file.key:
            digest.update(str(first[ETAG][0].as_py()).encode())
            return
    with file.open() as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)


def _add_folder(digest: blake2b, store: Store, reads: Callable[[str], bool]) -> None:
    for table in store.list():
        for row in table.to_pylist():
            if reads(row[KEY]):
                digest.update(f"{row[KEY]}\0{row[SIZE_BYTES]}\0{row[ETAG]}\0".encode())


@dataclass(frozen=True, slots=True)
class _Tables:
    """Tables that each iteration reads again."""

    format: AnnotationFormat
    source: Source

    def __iter__(self) -> Iterator[pa.Table]:
        return self.format.reader.read(self.source)
