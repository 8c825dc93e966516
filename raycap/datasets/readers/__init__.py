"""Captions of images in any of the formats that raycap reads, as one table."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.readers.base import Source
from raycap.datasets.readers.image_folders import folder_address
from raycap.datasets.readers.recognition import AnnotationFormat, find_files, open_place, recognise
from raycap.errors import ConfigError

__all__ = ["AnnotationFormat", "Annotations", "open_annotations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """A source of captions, not read yet."""

    source: str
    """Its absolute address."""
    format: AnnotationFormat
    tables: Iterable[pa.Table]
    """ANNOTATIONS, a few rows in memory at a time. Each iteration reads the source again, in the
    same order, and raises DatasetError if a file is damaged, StorageError if a store refuses."""


def open_annotations(
    source: str,
    config: StorageConfig,
    *,
    format: AnnotationFormat | None = None,
    images: str | None = None,
) -> Annotations:
    """Open a source of captions; reading begins when `tables` is iterated.

    Args:
        source: a file or a folder, local or in a bucket.
        config: settings of stores.
        format: format of the source; None: recognised by file names and beginnings.
        images: folder of the images; None: searched for where the format usually has them.

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
    found = Source(store=place.store, files=files, images=folder, config=config)
    return Annotations(source=place.uri, format=kind, tables=_Tables(kind, found))


@dataclass(frozen=True, slots=True)
class _Tables:
    """Tables that each iteration reads again."""

    format: AnnotationFormat
    source: Source

    def __iter__(self) -> Iterator[pa.Table]:
        return self.format.reader.read(self.source)
