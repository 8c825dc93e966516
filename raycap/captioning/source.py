"""Sources of images: a folder, glob, bucket prefix, image, list, tars, or caption dataset.

Every source is listed as a stream of MANIFEST tables, sorted by image id in UTF-8 byte order.

A caption dataset is a complete output of `raycap prepare`, or one split of it. Planning reads its
ids, addresses and digests, but no image. Images stored in the dataset are read many at a time, so
that each of its row groups is read about once.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.context import Wanted
from raycap.captioning.globs import WILDCARD, Glob, enters, glob_base
from raycap.captioning.list_file import LIST_SUFFIXES, read_list
from raycap.captioning.metadata import with_metadata, with_sidecars, without
from raycap.captioning.shards import ShardSource, find_shards, folder_shards
from raycap.captioning.sorting import sort_unique
from raycap.captioning.tar_index import KnownShards, Shard, shard_tables
from raycap.config import StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.splits import known_split
from raycap.errors import (
    ConfigError,
    DatasetError,
    ErrorCode,
    ImageError,
    StorageError,
    TransientError,
)
from raycap.images.names import has_image_suffix, system_folder, why_no_image
from raycap.images.other_files import HEAD_BYTES, describe_list
from raycap.results.dataset import DATASET, INDEX, is_dataset, read_record
from raycap.schema import ETAG, MANIFEST, SIZE_BYTES
from raycap.storage.address import Address, redact
from raycap.storage.base import KEY, Store
from raycap.storage.fence import LockObjectStore
from raycap.storage.local import LocalStore, display_path, etag_of
from raycap.storage.members import TAR
from raycap.storage.stores import ImageReader, open_store

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 1_024

Row = dict[str, Any]
File = bytes | ImageError
"""The bytes of an image file, or why it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """A caption dataset as a source."""

    dataset: CaptionDataset
    split: str | None
    """Name of the split; None for all."""

    def tables(self, wanted: Wanted | None) -> Iterator[pa.Table]:
        """Yield MANIFEST rows sorted by image id; raises as `CaptionDataset.pages`."""
        splits = None if self.split is None else [self.split]
        columns = [schema.IMAGE_ID, schema.URI, schema.DIGEST]
        names = () if wanted is None else wanted.names
        pages = self.dataset.pages(splits, list(dict.fromkeys((*columns, *names))))
        return sort_unique(self._manifest(page, wanted) for page in pages)

    def _manifest(self, page: pa.Table, wanted: Wanted | None) -> pa.Table:
        ids, uris, etags = page[schema.IMAGE_ID], page[schema.URI], page[schema.DIGEST]
        embed = self.dataset.record.config.get("embed", {})
        if embed.get("enabled", True):
            uris = pc.binary_join_element_wise(_held_uri(self.dataset.store.uri, ""), ids, "")
            if embed.get("max_side_px") is not None:
                # The digest is that of the file before shrinking.
                shrunk = f"{embed['max_side_px']}-{embed.get('quality')}"
                etags = pc.binary_join_element_wise(etags, shrunk, "-")
        # Parquet footers do not contain the sizes of embedded files.
        sizes = pa.nulls(len(page), pa.int64())
        contexts = pa.nulls(len(page), pa.string())
        if wanted is not None:
            rows = page.select(wanted.names).to_pylist()
            contexts = pa.array(map(wanted.encode, rows), pa.string())
        return pa.table([ids, uris, sizes, etags, contexts], schema=schema.MANIFEST)


def find_dataset(store: Store, config: StorageConfig, split: str | None) -> DatasetSource | None:
    """Open the complete caption dataset of a store; None if there is none.

    One small request shows that there is none.

    Raises:
        DatasetError: it is damaged, or has no such split.
        StorageError: it cannot be reached.
    """
    # Other programs may also write a `dataset.json`.
    if not (_exists(store, DATASET) and _exists(store, INDEX)):
        return None
    dataset = open_dataset(store.uri, config)
    if split is not None:
        split = known_split(split)
        dataset.parts(split)  # raises where there is none
    return DatasetSource(dataset=dataset, split=split)


def refuse_unfinished(store: Store) -> None:
    """Raise DatasetError if the store holds an unfinished caption dataset."""
    if is_dataset(store):
        read_record(store)


def with_held_files(
    rows: Iterable[Row], dataset: str | None, config: StorageConfig
) -> Iterator[tuple[Row, File | None]]:
    """Pair rows of a run with the image files stored in its source, a caption dataset.

    Few files are in memory at the same time. Within a chunk of rows, the order is that of the
    dataset.

    Args:
        rows: With `image_id` and `uri`.
        dataset: Address of the dataset; None if the source is not a dataset.
        config: How stores are accessed.

    Yields:
        Rows with their file; with None if the image has its own address.

    Raises:
        DatasetError: the dataset is damaged.
        StorageError: it cannot be read.
    """
    rows = iter(rows)
    if dataset is None:
        yield from ((row, None) for row in rows)
        return
    opened: CaptionDataset | None = None
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        yield from ((row, None) for row in chunk if not is_held(row, dataset))
        if held := [row for row in chunk if is_held(row, dataset)]:
            opened = opened or open_dataset(dataset, config)
            yield from held_files(held, opened)


def held_files(rows: Iterable[Row], dataset: CaptionDataset) -> Iterator[tuple[Row, File]]:
    """Read the images of rows from a dataset, in the order of the dataset.

    If it fails transiently, all remaining rows get that error: trying each of them would repeat all
    retries per row.

    Raises:
        DatasetError: a part is damaged.
        StorageError: it cannot be read, or a part is missing.
    """
    waiting = {row[schema.IMAGE_ID]: row for row in rows}
    lost = ImageError(ErrorCode.NOT_FOUND, f"{dataset.store.uri}: no longer has this image")
    try:
        for image_id, data in dataset.images(list(waiting)):
            yield waiting.pop(image_id), data
    except TransientError as error:
        lost = ImageError(error.code, error.message)
    for row in waiting.values():
        yield row, lost


def _held_uri(dataset: str, image_id: str) -> str:
    return f"{dataset}#{image_id}"


def is_held(row: Row, dataset: str) -> bool:
    """Whether the image of a row is stored in this caption dataset."""
    return bool(row[schema.URI] == _held_uri(dataset, row[schema.IMAGE_ID]))


def _exists(store: Store, key: str) -> bool:
    try:
        return store.exists(key)
    except TransientError:
        raise
    except StorageError:
        # The object may not be read; whether the images may be, the listing will show.
        return False


REPEATED = "duplicate"
"""What `Listing.skipped` counts entries of a list under whose image is in it already."""

_NUM_NAMED = 5
_PAGE_ROWS = 10_000


@dataclass
class Listing:
    """A source that can be listed once; listing fills `skipped`."""

    source: str
    """The absolute address, which a run records as its source."""
    tables: Iterable[pa.Table]
    """MANIFEST rows, sorted by image id, without duplicates."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files left out, by suffix or another reason: `hidden`, `dangling link`, `duplicate` in a list
    and others (`images/names.py`, `storage/local.py`)."""
    root: str | None = None
    """The folder or prefix that was listed; None for a list or one image."""
    repeated: list[str] = field(default_factory=list)
    """Ids of the first few images that a list has more than once."""
    is_dataset: bool = False
    """Whether it is a caption dataset, which may contain the images."""
    split: str | None = None
    """The split of the dataset; None for all."""
    is_list: bool = False
    """Whether it is a list."""
    store: Store | None = None
    """The store of `root`."""
    wanted: Wanted | None = None
    """The fields to list with the images."""
    metadata: AnnotationFile | None = None
    """The file to take them from."""
    tars: ShardSource | None = None
    """The tars of a WebDataset that its address names."""
    known_shards: KnownShards | None = None
    """The indexes that the output keeps of tars."""

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the source that belongs to a run's fingerprint."""
        split = {"split": self.split} if self.is_dataset else {}
        return {"source": self.source, **split}


def open_source(source: str, config: StorageConfig, split: str | None = None) -> Listing:
    """Recognise a source. Listing starts when `tables` is iterated.

    Args:
        source: Its address.
        config: How stores are accessed.
        split: Split of a caption dataset, by any of its usual names; None for all.

    Raises:
        ConfigError: it does not exist, its kind is unknown, or it has no splits.
        DatasetError: it is a damaged caption dataset, or has no such split.
        StorageError: it cannot be reached.
    """
    listing = _recognise(source, config, split)
    if split is not None and not listing.is_dataset:
        raise ConfigError(
            f"{listing.source}: is not a finished caption dataset, so source.split={split} does "
            "not apply; leave it out, or give an output of `raycap prepare`",
            uri=listing.source,
        )
    return listing


def _recognise(source: str, config: StorageConfig, split: str | None) -> Listing:
    address = Address.parse(source)
    if address.fault:  # before it is cut into pieces, which might show it
        raise ConfigError(f"{address.shown}: {address.fault}", uri=address.shown)
    if (tars := find_shards(source, config)) is not None:
        return _open_tars(tars, config)
    is_local = address.is_local
    path = Path(os.path.expanduser(address.path))
    if is_local and not os.path.exists(path):
        if not WILDCARD.search(source):
            raise ConfigError(f"{source}: no such file or folder", uri=source)
        return _open_glob(str(path))
    if source.lower().endswith(LIST_SUFFIXES) and not (is_local and os.path.isdir(path)):
        return _open_list(str(path.resolve()) if is_local else source, config)
    if is_local and os.path.isfile(path):
        return _open_one(open_store(str(path.parent), config), path.name)
    if not is_local:
        return _recognise_remote(address, config, split)
    return _open_store_source(open_store(address, config), config, split)


def _recognise_remote(address: Address, config: StorageConfig, split: str | None) -> Listing:
    """Recognise a prefix, glob or object; a name that exists is taken as it is."""
    if address.is_s3 and "//" in f"{address.path}/" and (found := _open_as_is(address, config)):
        return found
    is_glob = bool(WILDCARD.search(address.text))
    # A wildcard in the name of a bucket is refused below.
    if is_glob and not Address.parse(glob_base(address.text)).is_local:
        is_glob = not _exists_as_is(address, config)
    if is_glob:
        return _open_remote_glob(address.text, config)
    return _open_store_source(open_store(address, config), config, split)


def _open_as_is(address: Address, config: StorageConfig) -> Listing | None:
    """Open a prefix or object with empty names in its key, such as `s3://bucket//lead`."""
    from raycap.storage.s3 import S3Store  # noqa: PLC0415  boto3 takes as long as a small listing

    store = S3Store(address, config, is_literal=True)
    if store.holds_any():
        listing = Listing(source=store.uri, tables=(), root=store.uri, store=store)
        listing.tables = _images(listing, store, store.list())
        return listing
    bucket, key = address.bucket_and_key
    whole = open_store(f"s3://{bucket}", config)
    return _open_one(whole, key) if key.strip("/") and whole.exists(key) else None


def _exists_as_is(address: Address, config: StorageConfig) -> bool:
    """Whether there is a prefix or an object of exactly that name."""
    store = open_store(address, config)
    if isinstance(store, LockObjectStore) and store.holds_any():
        return True
    parent, _, name = store.uri.rpartition("/")
    return not parent.endswith("/") and open_store(parent, config).exists(name)


def _open_tars(tars: ShardSource, config: StorageConfig) -> Listing:
    listing = Listing(source=tars.source, tables=(), root=tars.root, tars=tars)

    def tables() -> Iterator[pa.Table]:
        yield from _tar_tables(listing, tars.shards(listing.skipped), config)

    listing.tables = tables()
    return listing


def _tar_tables(listing: Listing, shards: list[Shard], config: StorageConfig) -> Iterator[pa.Table]:
    reader, num_threads = ImageReader(config), config.list_threads
    yield from shard_tables(
        shards,
        reader,
        num_threads,
        listing.skipped,
        listing.known_shards,
        has_context=listing.wanted is not None,
    )


def _open_store_source(store: Store, config: StorageConfig, split: str | None) -> Listing:
    if found := find_dataset(store, config, split):
        listing = Listing(source=store.uri, tables=(), is_dataset=True, split=found.split)
        listing.tables = _rows_of(listing, found)
        return listing
    listing = Listing(source=store.uri, tables=(), root=store.uri, store=store)
    pages = store.survey(listing.skipped) if isinstance(store, LocalStore) else store.list()
    images = _images(listing, store, pages)
    listing.tables = _or_one_object(
        _or_tars(images, listing, store, config), store, config, listing
    )
    return listing


def _rows_of(listing: Listing, dataset: DatasetSource) -> Iterator[pa.Table]:
    yield from dataset.tables(listing.wanted)


def _or_tars(
    tables: Iterator[pa.Table], listing: Listing, store: Store, config: StorageConfig
) -> Iterator[pa.Table]:
    """Yield the images of a folder or prefix, or if there are none those in its tars."""
    empty = True
    for table in tables:
        empty = False
        yield table
    if empty and listing.skipped.pop(TAR, 0):
        pages = store.survey(Counter()) if isinstance(store, LocalStore) else store.list()
        yield from _tar_tables(listing, folder_shards(store, pages), config)


def _or_one_object(
    tables: Iterator[pa.Table], store: Store, config: StorageConfig, listing: Listing
) -> Iterator[pa.Table]:
    """Yield the images of a prefix, or if there are none the object with exactly that key."""
    empty = True
    for table in tables:
        empty = False
        yield table
    if empty and listing.skipped[".parquet"]:
        refuse_unfinished(store)
    parent, _, name = store.uri.rpartition("/")
    if empty and name and not Address.parse(store.uri).is_local and not parent.endswith("/"):
        yield from _open_one(open_store(parent, config), name).tables


def _open_one(store: Store, name: str) -> Listing:
    if Address.parse(store.uri).is_local:
        path = Path(store.address(name))
        _refuse_list(store, name)
        row = [[name], [str(path)], [path.stat().st_size], [etag_of(path.stat())], [None]]
        return Listing(source=str(path), tables=[pa.table(row, schema=MANIFEST)])
    # Of all keys that start with the name, the name itself is the first.
    pages = (table.slice(0, 1) for table in islice(store.list(name), 1))

    def found() -> Iterator[pa.Table]:
        for table in pages:
            if table[KEY][0].as_py() == name:
                _refuse_list(store, name)
                yield _manifest(store, table)

    return Listing(source=store.address(name), tables=found())


def _refuse_list(store: Store, name: str) -> None:
    """Raise ConfigError if one file, given as an image, is a list by its content.

    Its name must say so: as an image, it would be one failed row.
    """
    if has_image_suffix(name):
        return
    head = b""
    with suppress(StorageError):  # the run tells why it cannot be read
        head = store.read_range(name, 0, HEAD_BYTES)
    if kind := describe_list(head):
        shown = store.address(name)
        unpack = "unpack it, and " if kind in ("gzip", "bzip2") else ""
        raise ConfigError(
            f"{shown}: is no image but {kind}; if it is a list of images, {unpack}name it .txt, "
            ".csv, .jsonl or .parquet",
            uri=shown,
        )


def _open_glob(pattern: str) -> Listing:
    pattern = os.path.abspath(pattern)
    base = glob_base(pattern) or "/"
    store = LocalStore(Path(base))
    listing = Listing(source=pattern, tables=(), root=base, store=store)
    inner = pattern.removeprefix(base).lstrip("/")
    pages: Iterator[pa.Table] = iter(())
    if os.path.isdir(base):
        pages = store.survey(listing.skipped, enters(inner))
    listing.tables = _matching(listing, store, pages, Glob.parse(pattern, inner))
    return listing


def _open_remote_glob(pattern: str, config: StorageConfig) -> Listing:
    base = glob_base(pattern)
    if Address.parse(base).is_local:
        shown = redact(pattern)
        raise ConfigError(f"{shown}: the name of a bucket cannot contain a wildcard", uri=shown)
    store = open_store(base, config)
    inner = pattern.removeprefix(base).lstrip("/")
    listing = Listing(source=pattern, tables=(), root=base, store=store)
    listing.tables = _matching(listing, store, store.list(), Glob.parse(pattern, inner))
    return listing


def _matching(
    listing: Listing, store: Store, pages: Iterator[pa.Table], glob: Glob
) -> Iterator[pa.Table]:
    """Keep files that match a glob, and count those of a system's folder."""

    def matching(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            found = table.filter(pa.array([bool(glob.matcher.fullmatch(k)) for k in _keys(table)]))
            folders = [system_folder(key, glob.folders) for key in _keys(found)]
            listing.skipped.update(folder for folder in folders if folder is not None)
            kept = found.filter(pa.array([folder is None for folder in folders], pa.bool_()))
            if len(kept):
                yield _manifest(store, kept)

    # Other files do not count as skipped, and neither do sidecars.
    yield from _with_fields(listing, pages, matching, skipped=Counter())


def _open_list(source: str, config: StorageConfig) -> Listing:
    if not Address.parse(source).is_local:
        open_store(source.rpartition("/")[0], config)  # refuse it here, before a run records it
    listing = Listing(source=source, tables=(), is_list=True)

    def note(image_id: str, kept: str, dropped: str) -> None:
        shown, other = redact(kept), redact(dropped)
        if shown != other:
            raise DatasetError(
                f"{source}: gives the {schema.IMAGE_ID} {image_id} to two images, {shown} and "
                f"{other}; give each its own, or leave the column out",
                uri=source,
            )
        listing.skipped[REPEATED] += 1
        if len(listing.repeated) < _NUM_NAMED:
            listing.repeated.append(image_id)

    def tables() -> Iterator[pa.Table]:
        yield from sort_unique(read_list(source, config, listing.wanted), on_repeated=note)
        if listing.repeated:
            logger.warning(
                "listed_again addresses=%d such_as=%s",
                listing.skipped[REPEATED],
                ", ".join(listing.repeated),
            )

    listing.tables = tables()
    return listing


def _images(listing: Listing, store: Store, pages: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Keep files that are images by their name, and count the others by the reason."""

    def images(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            reasons = [why_no_image(key) for key in _keys(table)]
            listing.skipped.update(reason for reason in reasons if reason is not None)
            found = table.filter(pa.array([reason is None for reason in reasons]))
            if len(found):
                yield _manifest(store, found)

    yield from _with_fields(listing, pages, images, listing.skipped)


def _with_fields(
    listing: Listing,
    pages: Iterable[pa.Table],
    choose: Callable[[Iterable[pa.Table]], Iterator[pa.Table]],
    skipped: Counter[str],
) -> Iterator[pa.Table]:
    """Choose the images of a listing, and add what is beside them if that is wanted.

    A metadata file and sidecars are no images, and do not count as skipped.
    """
    wanted, metadata = listing.wanted, listing.metadata
    if wanted is None:
        yield from choose(pages)
    elif metadata is not None:
        yield from with_metadata(choose(without(pages, metadata.key)), metadata, wanted)
    else:
        yield from choose(with_sidecars(pages, skipped))


def _manifest(store: Store, table: pa.Table) -> pa.Table:
    uris = pa.array([display_path(store.address(key)) for key in _keys(table)])
    contexts = pa.nulls(len(table), pa.string())
    if schema.CONTEXT in table.column_names:
        contexts = table[schema.CONTEXT]
    columns = [table[KEY], uris, table[SIZE_BYTES], table[ETAG], contexts]
    return pa.table(columns, schema=MANIFEST)


def _keys(table: pa.Table) -> list[str]:
    keys: list[str] = table[KEY].to_pylist()
    return keys
