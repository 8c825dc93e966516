"""Which format of annotations stands at an address, and in which files."""

import os
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice

from raycap.config import StorageConfig
from raycap.datasets.readers.coco import JsonKind, json_kind
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.readers.flickr import FLICKR_NAMES, FlickrKind, find_flickr, flickr_kind
from raycap.datasets.readers.sidecars import has_sidecars
from raycap.datasets.readers.tables import (
    METADATA_NAMES,
    PART_SUFFIX,
    TABLE_SUFFIXES,
    find_metadata,
)
from raycap.datasets.readers.webdataset import TAR_SUFFIX
from raycap.errors import ConfigError
from raycap.results.dataset import is_dataset
from raycap.storage.address import Address
from raycap.storage.base import KEY, Store
from raycap.storage.stores import open_store

_NUM_LOOKED_AT = 100_000
_NUM_JSON_LOOKED_INTO = 100
_JSON_FOLDER = "annotations/"


class AnnotationFormat(StrEnum):
    """How a source says which captions belong to which image."""

    COCO = "coco"
    """COCO captions JSON, one or several."""
    KARPATHY = "karpathy"
    """Karpathy's JSON: `dataset_coco.json`, `dataset_flickr8k.json`."""
    FLICKR = "flickr"
    """Flickr8k and Flickr30k: `captions.txt`, `*.token`, `results.csv`."""
    METADATA = "metadata"
    """A folder of images with `metadata.jsonl`, `captions.csv` or their like."""
    SIDECAR = "sidecar"
    """A folder of images, each with its captions in a `.txt` of its name."""
    TABLE = "table"
    """A Parquet, JSON Lines, CSV or TSV file with images and captions, or a folder of Parquet."""
    WEBDATASET = "webdataset"
    """WebDataset tars."""


_FILE_SUFFIXES = {
    AnnotationFormat.COCO: (".json",),
    AnnotationFormat.KARPATHY: (".json",),
    AnnotationFormat.FLICKR: (".txt", ".token", ".csv"),
    AnnotationFormat.METADATA: TABLE_SUFFIXES,
    AnnotationFormat.SIDECAR: (),
    AnnotationFormat.TABLE: TABLE_SUFFIXES,
    AnnotationFormat.WEBDATASET: (TAR_SUFFIX,),
}
_ANY_SUFFIX = tuple(chain.from_iterable(_FILE_SUFFIXES.values()))
_LOOKED_FOR = {
    AnnotationFormat.COCO: "COCO captions JSON (here or in annotations/)",
    AnnotationFormat.KARPATHY: "Karpathy's JSON (here or in annotations/)",
    AnnotationFormat.FLICKR: ", ".join(FLICKR_NAMES),
    AnnotationFormat.METADATA: f"{', '.join(METADATA_NAMES)} (here or in train/, test/, ...)",
    AnnotationFormat.SIDECAR: "images with a .txt each",
    AnnotationFormat.TABLE: f"{PART_SUFFIX} files",
    AnnotationFormat.WEBDATASET: f"{TAR_SUFFIX} files",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of annotations, or a folder of annotations where `file` is None."""

    store: Store
    file: AnnotationFile | None

    @property
    def uri(self) -> str:
        """Its absolute address."""
        return self.file.uri if self.file else self.store.uri


def open_source(source: str, config: StorageConfig) -> Source:
    """Tell a file from a folder.

    Raises:
        ConfigError: nothing of that name exists, or it is no address of a store.
    """
    address = Address.parse(source)
    if address.is_local:
        path = address.local_path
        if not os.path.exists(path):
            raise ConfigError(f"{source}: no such file or folder")
        if os.path.isdir(path):
            return Source(store=open_store(path, config), file=None)
        return _open_file(*os.path.split(path), config)
    folder, _, name = source.rpartition("/")
    if name.lower().endswith(_ANY_SUFFIX) and not folder.endswith("/"):
        opened = _open_file(folder, name, config)
        if opened.file and opened.file.stands():
            return opened
    return Source(store=open_store(source, config), file=None)


def _open_file(folder: str, name: str, config: StorageConfig) -> Source:
    store = open_store(folder, config)
    return Source(store=store, file=AnnotationFile(store=store, key=name))


def recognise(source: Source) -> tuple[AnnotationFormat, list[AnnotationFile]]:
    """Tell the format of a source, and the files to read where it is one of single files.

    Raises:
        ConfigError: it is none that is known.
        DatasetError: a file that had to be looked into is damaged.
    """
    if source.file:
        return _recognise_file(source.file), [source.file]
    if is_dataset(source.store):
        raise ConfigError(
            f"{source.uri}: is a caption dataset already; name the annotations that it was made of"
        )
    for kind in (AnnotationFormat.METADATA, AnnotationFormat.FLICKR):
        if files := _find_files(source.store, kind):
            return kind, files
    keys = _first_keys(source.store)
    for kind in (AnnotationFormat.COCO, AnnotationFormat.KARPATHY):
        if files := _find_json(source.store, kind, keys):
            return kind, files
    if found := _format_of_names(keys):
        return found, []
    looked_for = "; ".join(_LOOKED_FOR.values())
    raise ConfigError(
        f"{source.uri}: holds no captions that are recognised (looked for {looked_for}); name the "
        f"file itself, or the format: {', '.join(AnnotationFormat)}"
    )


def _recognise_file(file: AnnotationFile) -> AnnotationFormat:
    kind = _format_of_file(file)
    if kind is None:
        raise ConfigError(
            f"{file.uri}: does not look like captions; if it is, name its format: "
            f"{', '.join(AnnotationFormat)}"
        )
    return kind


def find_files(source: Source, kind: AnnotationFormat) -> list[AnnotationFile]:
    """Find the files of a source of that format; none where the whole folder is read.

    Raises:
        ConfigError: it has none.
        DatasetError: a file that had to be looked into is damaged.
    """
    suffixes = _FILE_SUFFIXES[kind]
    if source.file and not source.file.name.lower().endswith(suffixes):
        files = f"a folder or a file named {' or '.join(suffixes)}" if suffixes else "a folder"
        raise ConfigError(f"{source.uri}: {kind} annotations are {files}")
    if source.file:
        return [source.file]
    found = _find_files(source.store, kind)
    if not found and kind in _FORMATS_OF_FILES:
        raise ConfigError(
            f"{source.uri}: holds no {kind} annotations (looked for {_LOOKED_FOR[kind]}); "
            "name the file itself"
        )
    return found


_FORMATS_OF_FILES = frozenset(AnnotationFormat) - {
    AnnotationFormat.SIDECAR,
    AnnotationFormat.TABLE,
    AnnotationFormat.WEBDATASET,
}


def _find_files(store: Store, kind: AnnotationFormat) -> list[AnnotationFile]:
    if kind == AnnotationFormat.METADATA:
        return find_metadata(store)
    if kind == AnnotationFormat.FLICKR:
        return find_flickr(store)
    return _find_json(store, kind, _first_keys(store)) if kind in _FORMATS_OF_FILES else []


def _find_json(store: Store, kind: AnnotationFormat, keys: list[str]) -> list[AnnotationFile]:
    """Find the JSON files of a format among keys.

    Of several COCO files, those that are named after captions: its others are of other tasks.
    """
    files = [
        AnnotationFile(store=store, key=key)
        for key in keys
        if key.lower().endswith(".json") and "/" not in key.removeprefix(_JSON_FOLDER)
    ]
    found = [
        file
        for file in files[:_NUM_JSON_LOOKED_INTO]
        if _FORMAT_OF_JSON.get(json_kind(file) or JsonKind.LIST) == kind
    ]
    return [file for file in found if "caption" in file.name.lower()] or found


_FORMAT_OF_JSON = {
    JsonKind.COCO: AnnotationFormat.COCO,
    JsonKind.KARPATHY: AnnotationFormat.KARPATHY,
    JsonKind.LIST: AnnotationFormat.TABLE,
}


def _first_keys(store: Store) -> list[str]:
    """List the first files of a folder, those of COCO's folder of annotations before all."""
    listed = (
        key
        for prefix in (_JSON_FOLDER, "")
        for table in store.list(prefix)
        for key in table[KEY].to_pylist()
    )
    visible = (key for key in listed if not key.rpartition("/")[2].startswith("."))
    return list(dict.fromkeys(islice(visible, _NUM_LOOKED_AT)))


def _format_of_file(file: AnnotationFile) -> AnnotationFormat | None:
    suffix = os.path.splitext(file.name)[1].lower()
    if suffix == TAR_SUFFIX:
        return AnnotationFormat.WEBDATASET
    if suffix == ".json":
        kind = json_kind(file)
        return _FORMAT_OF_JSON[kind] if kind else None
    if suffix in (".txt", ".token", ".csv"):
        kind_of_lines = flickr_kind(file)
        if kind_of_lines == FlickrKind.BARS or (kind_of_lines and suffix != ".csv"):
            return AnnotationFormat.FLICKR
    if file.name in METADATA_NAMES:
        return AnnotationFormat.METADATA
    return AnnotationFormat.TABLE if suffix in TABLE_SUFFIXES else None


def _format_of_names(keys: list[str]) -> AnnotationFormat | None:
    names = [key.lower() for key in keys]
    if any(name.endswith(TAR_SUFFIX) for name in names):
        return AnnotationFormat.WEBDATASET
    if any(name.endswith(PART_SUFFIX) for name in names):
        return AnnotationFormat.TABLE
    return AnnotationFormat.SIDECAR if has_sidecars(keys) else None
