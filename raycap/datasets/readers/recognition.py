"""The registry of annotation formats, and recognition of the format of a source."""

import os
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from raycap.config import StorageConfig
from raycap.datasets.readers import coco, flickr, karpathy, sidecars, tables, webdataset
from raycap.datasets.readers.base import Folder, Reader
from raycap.datasets.readers.files import AnnotationFile, open_file
from raycap.errors import ConfigError
from raycap.results.dataset import is_dataset
from raycap.storage.address import Address
from raycap.storage.base import Store
from raycap.storage.stores import open_store


class AnnotationFormat(StrEnum):
    """How a source assigns captions to images, in the order in which sources are recognised.

    A new format is a module with a Reader, and one line here.
    """

    reader: Reader

    def __new__(cls, reader: Reader | str) -> "AnnotationFormat":
        """Make the member of a reader, whose value is its name; a call with a name returns it."""
        assert isinstance(reader, Reader)
        member = str.__new__(cls, reader.name)
        member._value_ = reader.name
        member.reader = reader
        return member

    METADATA = tables.METADATA
    """A folder of images with `metadata.jsonl`, `captions.csv` or similar."""
    FLICKR = flickr.READER
    """Flickr8k and Flickr30k: `captions.txt`, `*.token`, `results.csv`."""
    COCO = coco.READER
    """COCO captions JSON, one or several."""
    KARPATHY = karpathy.READER
    """Karpathy's JSON: `dataset_coco.json`, `dataset_flickr8k.json`."""
    WEBDATASET = webdataset.READER
    """WebDataset tars."""
    TABLE = tables.TABLE
    """A Parquet, JSON Lines, CSV or TSV file with images and captions, or a folder of Parquet."""
    SIDECAR = sidecars.READER
    """A folder of images, each with its captions in a `.txt` file of the same name."""


_SUFFIXES = tuple(chain.from_iterable(kind.reader.suffixes for kind in AnnotationFormat))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file of annotations, or a folder of annotations where `file` is None."""

    store: Store
    file: AnnotationFile | None

    @property
    def uri(self) -> str:
        """Its absolute address."""
        return self.file.uri if self.file else self.store.uri


def open_place(source: str, config: StorageConfig) -> Place:
    """Distinguish a file from a folder.

    Raises:
        ConfigError: nothing exists at the address, or it is not an address of a store.
    """
    address = Address.parse(source)
    if address.fault:  # before it is cut into pieces, which might show it
        raise ConfigError(f"{address.shown}: {address.fault}", uri=address.shown)
    if address.is_local:
        path = address.local_path
        if not os.path.exists(path):
            raise ConfigError(f"{source}: no such file or folder", uri=source)
        if os.path.isdir(path):
            return Place(store=open_store(path, config), file=None)
        file = open_file(path, config)
        return Place(store=file.store, file=file)
    folder, _, name = source.rpartition("/")
    if name.lower().endswith(_SUFFIXES) and not folder.endswith("/"):
        file = open_file(source, config)
        if file.exists():
            return Place(store=file.store, file=file)
    return Place(store=open_store(source, config), file=None)


def recognise(place: Place) -> tuple[AnnotationFormat, list[AnnotationFile]]:
    """Return the format of a source, and the files to read; empty: the whole folder.

    Raises:
        ConfigError: it is of no known format.
        DatasetError: a file that had to be opened is damaged.
    """
    if place.file:
        return _recognise_file(place.file), [place.file]
    if is_dataset(place.store):
        raise ConfigError(
            f"{place.uri}: is already a caption dataset; give the annotations it was made from",
            uri=place.uri,
        )
    folder = Folder(place.store)
    for kind in AnnotationFormat:
        files = kind.reader.find(folder)
        if files is not None:
            return kind, files
    searched = "; ".join(kind.reader.searched for kind in AnnotationFormat)
    raise ConfigError(
        f"{place.uri}: contains no annotations of a known format (searched for {searched}); "
        f"give the file itself, or the format: {', '.join(AnnotationFormat)}",
        uri=place.uri,
    )


def _recognise_file(file: AnnotationFile) -> AnnotationFormat:
    for kind in AnnotationFormat:
        if kind.reader.sniff(file):
            return kind
    raise ConfigError(
        f"{file.uri}: is not recognised as annotations; if it is, give its format: "
        f"{', '.join(AnnotationFormat)}",
        uri=file.uri,
    )


def find_files(place: Place, kind: AnnotationFormat) -> list[AnnotationFile]:
    """Find the files of a given format; empty where the whole folder is read.

    Raises:
        ConfigError: there are none.
        DatasetError: a file that had to be opened is damaged.
    """
    reader = kind.reader
    if place.file and not place.file.name.lower().endswith(reader.suffixes):
        named = f" or a file named {' or '.join(reader.suffixes)}" if reader.suffixes else ""
        raise ConfigError(f"{place.uri}: {kind} annotations must be a folder{named}", uri=place.uri)
    if place.file:
        return [place.file]
    if reader.is_folder:
        return []
    found = reader.find(Folder(place.store))
    if not found:
        raise ConfigError(
            f"{place.uri}: contains no {kind} annotations (searched for {reader.searched}); "
            "give the file itself",
            uri=place.uri,
        )
    return found
