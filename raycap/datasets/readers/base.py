"""What a format of annotations provides to the registry: one Reader per format."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import pyarrow as pa

from raycap.config import Lines, StorageConfig
from raycap.datasets.grouping import Notes
from raycap.datasets.readers.files import AnnotationFile
from raycap.storage.base import KEY, Store
from raycap.storage.stores import listed

JSON_FOLDER = "annotations/"
"""COCO's folder of JSON files; its keys come first in `Folder.keys`."""

_NUM_KEYS = 100_000


class Folder:
    """A folder of annotations whose format is not known yet; it is listed at most once."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def keys(self) -> list[str]:
        """The first 100,000 visible files, those in `annotations/` before all others."""
        keys = (
            key
            for prefix in (JSON_FOLDER, "")
            for table in listed(self.store, prefix)
            for key in table[KEY].to_pylist()
        )
        visible = (key for key in keys if not key.rpartition("/")[2].startswith("."))
        return list(dict.fromkeys(islice(visible, _NUM_KEYS)))

    def has_suffix(self, suffix: str) -> bool:
        """Return whether one of `keys` has a suffix, in upper or lower case."""
        return any(key.lower().endswith(suffix) for key in self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Annotations of a known format, ready to be read."""

    store: Store
    """The folder that they are in."""
    files: Sequence[AnnotationFile]
    """The files to read; empty: the whole folder."""
    images: str | None
    """Address of the folder of images; None: each format searches where its images usually are."""
    config: StorageConfig
    lines: Lines = "all"
    """Which lines of a caption file are captions."""
    notes: Notes = field(default_factory=Notes)
    """Filled while it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One format of annotations; see `recognition.AnnotationFormat` for the registry."""

    name: str
    """Value of `--format`."""
    suffixes: tuple[str, ...]
    """Lower-case suffixes of its files; empty: it is always a folder."""
    searched: str
    """What `find` searches a folder for, in words, for messages."""
    sniff: Callable[[AnnotationFile], bool]
    """Returns whether a file is of this format, by its name and beginning. Raises DatasetError if
    a file that has to be opened is damaged."""
    find: Callable[[Folder], list[AnnotationFile] | None]
    """Returns the files of this format in a folder; empty: the whole folder is of this format;
    None: it is not. Raises as `sniff`."""
    read: Callable[[Source], Iterator[pa.Table]]
    """Yields ANNOTATIONS tables. Raises DatasetError if the files are of another format or
    damaged."""
    is_folder: bool = False
    """The whole folder is read, so no file needs to be found where the format is given."""
    reads: Callable[[str], bool] = lambda _: True
    """Whether a file of a folder is read, by its key, where the whole folder is."""
    beside: Callable[[AnnotationFile], list[AnnotationFile]] = lambda _: []
    """Returns the files beside a file of this format that are read with it, where they exist."""
    holds_images: bool = False
    """Images are in the files themselves, so no folder of images can be given."""
