"""Caption files beside images: `a/b.jpg` has its captions in `a/b.txt`, one per line.

The names of `raycap export --to sidecar` are accepted too: where `a.jpg` and `a.png` would share
a name, they have `a.jpg.txt` and `a.png.txt`.
"""

import posixpath
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.config import Lines
from raycap.datasets.readers.base import Folder, Reader, Source
from raycap.datasets.readers.files import NOT_UTF8, AnnotationFile, decoded, paged
from raycap.datasets.readers.rows import (
    KEY,
    KEYED_CAPTIONS,
    KEYED_IMAGES,
    PAGE_ROWS,
    Caption,
    scratch_join,
)
from raycap.datasets.splits import split_of_folder
from raycap.images.names import why_no_image
from raycap.storage.base import KEY as LISTED_KEY
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import listed, open_store

SIDECAR_SUFFIX = ".txt"
_MAX_SIDECAR_BYTES = 1_048_576


def _is_image(key: str) -> bool:
    """Return whether a file counts as an image, by its name."""
    return why_no_image(key) is None


def _is_sidecar(key: str) -> bool:
    """Return whether a file counts as captions, by its name."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and name.lower().endswith(SIDECAR_SUFFIX)


def _has_sidecars(keys: Iterable[str]) -> bool:
    """Return whether an image among some files has its captions beside it."""
    listed = list(keys)
    images = {key for key in listed if _is_image(key) and posixpath.splitext(key)[1]}
    names = images | {posixpath.splitext(key)[0] for key in images}
    return any(key[: -len(SIDECAR_SUFFIX)] in names for key in listed if _is_sidecar(key))


def captions_in(text: bytes, wanted: Lines = "all") -> list[Caption]:
    """Return the lines of a caption file that are not empty, or one empty caption.

    A file that cannot be read, as it is neither UTF-8 nor of a marked encoding, has a fault.
    """
    try:
        lines = decoded(text).split("\n")
    except UnicodeError:
        return [Caption(None, NOT_UTF8)]
    captions = [Caption(line.strip()) for line in lines if line.strip()]
    return captions[: 1 if wanted == "first" else None] or [Caption("")]


def _find(folder: Folder) -> list[AnnotationFile] | None:
    return [] if _has_sidecars(folder.keys) else None


def _read(source: Source) -> Iterator[pa.Table]:
    """Read a folder of caption files and one of images, which may be the same.

    Images in folders named after splits (`train/`, `val/`) have these splits.
    """
    images = source.store if source.images is None else open_store(source.images, source.config)
    with scratch_join() as join:
        for keys in _keys(images, _is_image):
            join.images.add(_image_page(images, keys))
        for page in paged(_read_captions(source), PAGE_ROWS):
            join.captions.add(pa.Table.from_pylist(page, schema=KEYED_CAPTIONS))
        join.database.execute(_USE_FULL_NAMES)
        yield from join.tables()


_USE_FULL_NAMES = f"""
    UPDATE images SET {KEY} = {schema.IMAGE_ID} || '{SIDECAR_SUFFIX}'
    WHERE {schema.IMAGE_ID} || '{SIDECAR_SUFFIX}' IN (SELECT {KEY} FROM captions)
"""


def _keys(store: Store, is_wanted: Callable[[str], bool]) -> Iterator[list[str]]:
    for table in listed(store):
        keys = [key for key in table[LISTED_KEY].to_pylist() if is_wanted(key)]
        if keys:
            yield keys


def _image_page(images: Store, keys: list[str]) -> pa.Table:
    rows = [
        {
            KEY: posixpath.splitext(key)[0] + SIDECAR_SUFFIX,
            schema.IMAGE_ID: key,
            schema.URI: images.address(key),
            schema.SPLIT: split_of_folder(key),
        }
        for key in keys
    ]
    return pa.Table.from_pylist(rows, schema=KEYED_IMAGES)


def _read_captions(source: Source) -> Iterator[dict[str, Any]]:
    keys = chain.from_iterable(_keys(source.store, _is_sidecar))
    read = partial(_read_sidecar, source.store, source.lines)
    for key, captions in ordered_map(read, keys, source.config.list_threads):
        name = key[: -len(SIDECAR_SUFFIX)] + SIDECAR_SUFFIX  # in lower case
        for caption in captions:
            yield {KEY: name, schema.CAPTION: caption.text, schema.FAULT: caption.fault}


def _read_sidecar(store: Store, lines: Lines, key: str) -> tuple[str, list[Caption]]:
    data = store.read_range(key, 0, _MAX_SIDECAR_BYTES + 1)
    if len(data) > _MAX_SIDECAR_BYTES:
        return key, [Caption(None, f"its file has more than {_MAX_SIDECAR_BYTES:,} bytes")]
    return key, captions_in(data, lines)


READER = Reader(
    name="sidecar",
    suffixes=(),
    searched="images with a .txt each",
    sniff=lambda _: False,
    find=_find,
    read=_read,
    reads=lambda key: _is_image(key) or _is_sidecar(key),
    is_folder=True,
)
