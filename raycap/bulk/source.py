"""What is to be captioned: a folder, a glob, a bucket prefix, one image, or a list of addresses.

Whatever it is, it comes out as MANIFEST tables sorted by image id in UTF-8 byte order, streamed.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from raycap.bulk.listfile import LIST_SUFFIXES, read_list
from raycap.bulk.sorting import sort_unique
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.schema import ETAG, MANIFEST, SIZE_BYTES
from raycap.storage.address import scheme_of
from raycap.storage.base import KEY, Store
from raycap.storage.local import etag_of
from raycap.storage.stores import open_store

_SUFFIXES = """
    apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli gif heic heif icns ico im j2c j2k
    jfif jp2 jpc jpe jpeg jpf jpg jpx mpo msp pbm pcd pcx pfm pgm png pnm ppm psd qoi ras rgb rgba
    sgi tga tif tiff webp xbm xpm
"""
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
"""Files of a folder or prefix that are taken as images; those without a suffix are, too."""

_WILDCARD = re.compile(r"[*?\[]")


@dataclass
class Listing:
    """A source ready to be listed once; `skipped` is filled while it is."""

    source: str
    """The address, made absolute: what a run remembers as its source."""
    tables: Iterable[pa.Table]
    """MANIFEST rows, sorted by image id, no id twice."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files that are not images, counted by suffix (or `duplicate` in a list)."""


def open_source(source: str, config: StorageConfig) -> Listing:
    """Recognise a source. Listing begins when `tables` is iterated.

    Raises:
        ConfigError: nothing of that name exists, or its kind is unknown.
    """
    is_local = scheme_of(source) in ("", "file")
    path = Path(source.removeprefix("file://")).expanduser()
    if is_local and not path.exists():
        if not _WILDCARD.search(source):
            raise ConfigError(f"{source}: no such file or folder")
        return _open_glob(str(path))
    if source.lower().endswith(LIST_SUFFIXES) and not (is_local and path.is_dir()):
        return _open_list(str(path.resolve()) if is_local else source, config)
    if is_local and path.is_file():
        return _open_one(open_store(str(path.parent), config), path.name)
    if not is_local and _WILDCARD.search(source):
        return _open_remote_glob(source, config)
    return _open_store_source(open_store(source, config), config)


def _open_store_source(store: Store, config: StorageConfig) -> Listing:
    listing = Listing(source=store.uri, tables=())
    listing.tables = _or_one_object(_images(store, store.list(), listing.skipped), store, config)
    return listing


def _or_one_object(
    tables: Iterator[pa.Table], store: Store, config: StorageConfig
) -> Iterator[pa.Table]:
    """Yield a prefix's images, or the object that stands at exactly that key if there are none."""
    empty = True
    for table in tables:
        empty = False
        yield table
    parent, _, name = store.uri.rpartition("/")
    if empty and name and scheme_of(store.uri) and not parent.endswith("/"):
        yield from _open_one(open_store(parent, config), name).tables


def _open_one(store: Store, name: str) -> Listing:
    if scheme_of(store.uri) == "":
        path = Path(store.address(name))
        row = [[name], [str(path)], [path.stat().st_size], [etag_of(path.stat())]]
        return Listing(source=str(path), tables=[pa.table(row, schema=MANIFEST)])
    pages = (table.filter(pc.equal(table[KEY], name)) for table in store.list(name))
    found = (_manifest(store, table) for table in pages if len(table))
    return Listing(source=store.address(name), tables=found)


def _open_glob(pattern: str) -> Listing:
    pattern = os.path.abspath(pattern)
    base = _glob_base(pattern)

    def tables() -> Iterator[pa.Table]:
        rows = []
        for name in glob.iglob(pattern, recursive=True):
            status = os.stat(name)
            if not os.path.isdir(name):
                key = os.path.relpath(name, base)
                rows.append((key, name, status.st_size, etag_of(status)))
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            yield pa.table(columns, schema=MANIFEST)

    return Listing(source=pattern, tables=sort_unique(tables()))


def _open_remote_glob(pattern: str, config: StorageConfig) -> Listing:
    base = _glob_base(pattern)
    store = open_store(base, config)
    matcher = re.compile(_glob_regex(pattern.removeprefix(base).lstrip("/")))

    def tables() -> Iterator[pa.Table]:
        for table in store.list():
            found = table.filter(pa.array([bool(matcher.fullmatch(k)) for k in _keys(table)]))
            if len(found):
                yield _manifest(store, found)

    return Listing(source=pattern, tables=tables())


def _open_list(source: str, config: StorageConfig) -> Listing:
    listing = Listing(source=source, tables=())

    def counted() -> Iterator[pa.Table]:
        for table in read_list(source, config):
            listing.skipped["duplicate"] += len(table)
            yield table

    def tables() -> Iterator[pa.Table]:
        for table in sort_unique(counted()):
            listing.skipped["duplicate"] -= len(table)
            yield table

    listing.tables = tables()
    return listing


def _images(store: Store, tables: Iterable[pa.Table], skipped: Counter[str]) -> Iterator[pa.Table]:
    """Keep what is an image by its name, and count the rest by suffix."""
    for table in tables:
        keep = []
        for key in _keys(table):
            name = PurePosixPath(key).name
            suffix = PurePosixPath(name).suffix.lower()
            is_image = not name.startswith(".") and (not suffix or suffix in IMAGE_SUFFIXES)
            keep.append(is_image)
            if not is_image:
                skipped[suffix or name] += 1
        found = table if all(keep) else table.filter(pa.array(keep))
        if len(found):
            yield _manifest(store, found)


def _manifest(store: Store, table: pa.Table) -> pa.Table:
    uris = pa.array([store.address(key) for key in _keys(table)])
    return pa.table([table[KEY], uris, table[SIZE_BYTES], table[ETAG]], schema=MANIFEST)


def _keys(table: pa.Table) -> list[str]:
    keys: list[str] = table[KEY].to_pylist()
    return keys


def _glob_base(pattern: str) -> str:
    """Return the folder above the first wildcard."""
    first = _WILDCARD.search(pattern)
    return pattern[: first.start() if first else None].rpartition("/")[0]


def _glob_regex(pattern: str) -> str:
    """Translate a glob over keys: `*` and `?` stay within a folder, `**/` is any depth."""
    translated = re.escape(pattern)
    for glob_part, regex in (
        (r"\*\*/", "(?:.*/)?"),
        (r"\*\*", ".*"),
        (r"\*", "[^/]*"),
        (r"\?", "[^/]"),
        (r"\[", "["),
        (r"\]", "]"),
        (r"\-", "-"),
    ):
        translated = translated.replace(glob_part, regex)
    return translated
