"""Captions of images in any of the formats that raycap reads, as one table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.readers.coco import read_coco
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.readers.flickr import read_flickr
from raycap.datasets.readers.image_folders import folder_address
from raycap.datasets.readers.karpathy import read_karpathy
from raycap.datasets.readers.recognition import (
    AnnotationFormat,
    Source,
    find_files,
    open_source,
    recognise,
)
from raycap.datasets.readers.sidecars import read_sidecars
from raycap.datasets.readers.tables import read_metadata, read_parts, read_table
from raycap.datasets.readers.webdataset import read_tar, read_tars
from raycap.errors import ConfigError
from raycap.storage.stores import open_store

__all__ = ["AnnotationFormat", "Annotations", "open_annotations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """A source of captions, not read yet."""

    source: str
    """Its absolute address."""
    format: AnnotationFormat
    tables: Iterable[pa.Table]
    """ANNOTATIONS, a few rows in memory at a time. Each pass over it reads the source anew, in the
    same order, and raises DatasetError where a file is damaged, StorageError where a store
    refuses."""


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
        config: how stores are reached.
        format: what it is; None: recognised by its names and beginnings.
        images: folder of the images; None: looked for where the format has them.

    Raises:
        ConfigError: nothing stands there, it is of no known format, or not of the one named.
        DatasetError: a file that had to be looked into is damaged.
        StorageError: a store refuses.
    """
    opened = open_source(source, config)
    kind, files = (format, find_files(opened, format)) if format else recognise(opened)
    if images is not None and kind == AnnotationFormat.WEBDATASET:
        raise ConfigError(f"{opened.uri}: tars hold their images; leave out the folder of images")
    folder = None if images is None else folder_address(images, config)
    read = partial(_READERS[kind], opened, files, folder, config)
    return Annotations(source=opened.uri, format=kind, tables=_Tables(read))


@dataclass(frozen=True, slots=True)
class _Tables:
    """Tables that each pass over them reads anew."""

    read: Callable[[], Iterator[pa.Table]]

    def __iter__(self) -> Iterator[pa.Table]:
        return self.read()


_Files = list[AnnotationFile]
_Reader = Callable[[Source, _Files, str | None, StorageConfig], Iterator[pa.Table]]


def _read_sidecars(
    source: Source, files: _Files, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    del files  # all of the folder
    folder = source.store if images is None else open_store(images, config)
    return read_sidecars(source.store, folder, config)


def _read_tables(
    source: Source, files: _Files, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    if files:
        return read_table(files[0], images, config)
    return read_parts(source.store, images, config)


def _read_tars(
    source: Source, files: _Files, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    del images, config  # a tar holds its images
    return read_tar(files[0]) if files else read_tars(source.store)


_READERS: dict[AnnotationFormat, _Reader] = {
    AnnotationFormat.COCO: lambda _, files, *rest: read_coco(files, *rest),
    AnnotationFormat.KARPATHY: lambda _, files, *rest: read_karpathy(files, *rest),
    AnnotationFormat.FLICKR: lambda _, files, *rest: read_flickr(files[0], *rest),
    AnnotationFormat.METADATA: lambda _, files, *rest: read_metadata(files, *rest),
    AnnotationFormat.SIDECAR: _read_sidecars,
    AnnotationFormat.TABLE: _read_tables,
    AnnotationFormat.WEBDATASET: _read_tars,
}
