"""Shards of a WebDataset as a source: one tar, a glob of tars, or names in braces.

Which tars there are, from their addresses; `tar_index` reads what is in them. Braces are expanded
as the package webdataset does, `{00000..00999}` and `{train,val}`.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from urllib.parse import unquote

import pyarrow as pa
from braceexpand import braceexpand

from raycap.captioning.globs import WILDCARD, Glob, enters
from raycap.captioning.tar_index import Shard
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.images.names import system_folder
from raycap.schema import ETAG, SIZE_BYTES
from raycap.storage.address import Address, redact
from raycap.storage.base import KEY, Store
from raycap.storage.local import LocalStore, display_path
from raycap.storage.members import TAR, names_tar, path_of
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader, open_store

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_MOST_SHARDS = 1_000_000
_NUM_NAMED = 3
_PATTERN = re.compile(r"[{*?\[]")
_RANGE = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSource:
    """Tars that an address names; they are listed when `shards` is called."""

    source: str
    """The absolute address, without secrets."""
    root: str
    """Address of the folder that ids begin below."""
    shards: Callable[[Counter[str]], list[Shard]]
    """Lists them, and counts what is left out."""


def find_shards(source: str, config: StorageConfig) -> ShardSource | None:
    """Recognise an address, glob or pattern of tars; None if it names something else.

    Raises:
        ConfigError: the tars are compressed, a pattern cannot be expanded, or there is no such tar.
        StorageError: the store cannot be reached.
    """
    if not (TAR in source.lower() or source.lower().endswith(_COMPRESSED)):
        return None
    address = Address.parse(source)
    if address.is_web:
        patterns = _expanded(source)
        return _web_shards(source, patterns, config) if _all_tars(source, patterns) else None
    if address.is_local:
        source = os.path.abspath(os.path.expanduser(address.path))
        if os.path.isdir(source):
            return None
    # A name that exists is taken as it is.
    is_literal = _exists(source, config)
    if not is_literal and not _PATTERN.search(source):
        return None
    patterns = [source] if is_literal else _expanded(source)
    if not _all_tars(source, patterns):
        return None
    base = source.rpartition("/")[0] if is_literal else _base(source)
    return _stored(source, base, patterns, config, is_literal=is_literal)


def folder_shards(store: Store, pages: Iterator[pa.Table]) -> list[Shard]:
    """Return the tars in a listing of a folder or prefix, but those in a system's folder."""
    return [shard for shard in _shards_of(store, pages) if system_folder(shard.key) is None]


def _exists(source: str, config: StorageConfig) -> bool:
    if Address.parse(source).is_local:
        return os.path.isfile(source)
    folder, _, name = source.rpartition("/")
    if not folder.partition("://")[2] or _PATTERN.search(folder.partition("://")[2].split("/")[0]):
        return False
    return open_store(folder, config).exists(name)


def _base(pattern: str) -> str:
    """Return the folder above the first brace or wildcard."""
    first = _PATTERN.search(pattern)
    return pattern[: first.start() if first else None].rpartition("/")[0]


def _expanded(source: str) -> list[str]:
    """Expand braces. Raises ConfigError."""
    if "{" not in source:
        return [source]
    shown = redact(source)
    for found in _RANGE.finditer(source):
        if abs(int(found[2]) - int(found[1])) >= _MOST_SHARDS:
            raise _too_many(shown)
    try:
        names = list(islice(braceexpand(source), _MOST_SHARDS + 1))
    except ValueError as error:
        raise ConfigError(
            f"{shown}: a brace is not closed; write {{00000..00999}} or {{a,b}}, and \\{{ for a "
            "brace in a name",
            uri=shown,
        ) from error
    if len(names) > _MOST_SHARDS:
        raise _too_many(shown)
    return list(dict.fromkeys(names))


def _too_many(shown: str) -> ConfigError:
    return ConfigError(
        f"{shown}: names more than {_MOST_SHARDS:,} tars; give a smaller range, or a glob",
        uri=shown,
    )


def _all_tars(source: str, patterns: list[str]) -> bool:
    """Whether all names are those of tars.

    Raises:
        ConfigError: only some are, or they are compressed.
    """
    shown = redact(source)
    if any(path_of(name).lower().endswith(_COMPRESSED) for name in patterns):
        raise ConfigError(
            f"{shown}: is a compressed tar, in which no image can be read without all those before "
            "it; decompress it to a .tar (gzip saves nothing: images are compressed already)",
            uri=shown,
        )
    num_tars = sum(map(names_tar, patterns))
    if num_tars and num_tars < len(patterns):
        raise ConfigError(
            f"{shown}: names tars and other files; give them in a run each", uri=shown
        )
    return num_tars > 0


def _stored(
    source: str, base: str, patterns: list[str], config: StorageConfig, *, is_literal: bool
) -> ShardSource:
    """Return the tars of a folder or bucket that match a pattern or have one of some names."""
    if Address.parse(source).scheme and not Address.parse(base).scheme:
        raise ConfigError(f"{source}: the name of a bucket cannot be a pattern", uri=source)
    store = open_store(base or "/", config)
    inner = [pattern.removeprefix(base).lstrip("/") for pattern in patterns]
    is_glob = [not is_literal and bool(WILDCARD.search(name)) for name in inner]
    names = {name for name, is_one in zip(inner, is_glob, strict=True) if not is_one}
    globs = [Glob.parse(source, n) for n, is_one in zip(inner, is_glob, strict=True) if is_one]

    def shards(skipped: Counter[str]) -> list[Shard]:
        pages = _pages(store, inner, skipped, prefix=inner[0] if is_literal else "")
        found = [
            shard
            for shard in _shards_of(store, pages)
            if shard.key in names or any(_matches(glob, shard.key) for glob in globs)
        ]
        _refuse_missing(source, names - {shard.key for shard in found})
        return found

    return ShardSource(source=source, root=base, shards=shards)


def _pages(
    store: Store, inner: list[str], skipped: Counter[str], prefix: str
) -> Iterator[pa.Table]:
    """List the folder of a pattern; one file without the others, where that is possible."""
    if not isinstance(store, LocalStore):
        return store.list(prefix)
    if not os.path.isdir(store.uri):
        return iter(())
    # One for each folder that is named, not for each file.
    folders = {name.rpartition("/")[0]: name for name in inner}
    tests = [enters(name) for name in folders.values()]
    return store.survey(skipped, lambda key: any(test(key) for test in tests))


def _matches(glob: Glob, key: str) -> bool:
    return bool(glob.matcher.fullmatch(key)) and system_folder(key, glob.folders) is None


def _refuse_missing(source: str, missing: set[str]) -> None:
    if missing:
        first = ", ".join(sorted(missing)[:_NUM_NAMED]) + (", ..." if len(missing) > 3 else "")
        raise ConfigError(
            f"{source}: {len(missing):,} of the tars that it names do not exist ({first}); correct "
            "the range, or give a glob such as *.tar for those that do",
            uri=source,
        )


def _shards_of(store: Store, pages: Iterator[pa.Table]) -> Iterator[Shard]:
    for page in pages:
        columns = (page[name].to_pylist() for name in (KEY, SIZE_BYTES, ETAG))
        for key, num_bytes, etag in zip(*columns, strict=True):
            if names_tar(key):
                size = store.size(key) if num_bytes is None else num_bytes
                yield Shard(key, display_path(store.address(key)), size, etag)


def _web_shards(source: str, patterns: list[str], config: StorageConfig) -> ShardSource:
    """Return tars at web addresses; a server gives their sizes, but no list of them."""
    shown = redact(source)
    if any(WILDCARD.search(path_of(pattern)) for pattern in patterns):
        raise ConfigError(
            f"{shown}: a web address cannot be listed, so it takes no wildcard; name the tars in "
            "braces, such as {00000..00999}.tar",
            uri=shown,
        )
    base = _base(path_of(source)) + "/"
    read = partial(_web_shard, ImageReader(config), base)

    def shards(_: Counter[str]) -> list[Shard]:
        return list(ordered_map(read, patterns, config.list_threads))

    return ShardSource(source=shown, root=redact(base.rstrip("/")), shards=shards)


def _web_shard(reader: ImageReader, base: str, uri: str) -> Shard:
    found = reader.describe_web(uri)
    if not found.has_ranges:
        raise ConfigError(
            f"{redact(uri)}: the server sends no part of a file (HTTP range requests); "
            "download the tars, or copy them to a server or bucket that does",
            uri=redact(uri),
        )
    return Shard(unquote(path_of(uri).removeprefix(base)), uri, found.num_bytes, found.version)
