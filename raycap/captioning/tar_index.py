"""What is in the tars of a WebDataset: the images, each with its place in its tar.

Members whose names are equal up to the first dot are one sample, and of each sample one image is
captioned: the first of `.jpg`, `.jpeg`, `.png`, `.webp`, else the first of another format. Its id
is the path of the tar and the name of the member: `00012.tar/000123.jpg`. Ids do not depend on
other tars, and those of one tar are neighbours, so that a part of the manifest is a few spans of
tars.

The headers of a tar are read in large blocks: a request per header would take longer than reading
past members that are smaller than such a block.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from io import BufferedReader, BytesIO
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap.captioning.context import (
    MAX_SIDECAR_BYTES,
    SIDECAR_SUFFIXES,
    encode_sidecars,
    fields_of_sidecar,
    sidecar_uris,
)
from raycap.errors import UNREADABLE, ConfigError, ImageError, ObjectNotFound
from raycap.images.names import HIDDEN, IMAGE_SUFFIXES, system_folder
from raycap.schema import (
    BESIDE,
    CONTEXT,
    MANIFEST,
    NAME,
    OFFSET_BYTES,
    SIZE_BYTES,
    TAR_INDEX,
    URI,
)
from raycap.storage.address import Address, redact, unusable
from raycap.storage.base import Store
from raycap.storage.local import DANGLING, display
from raycap.storage.members import Member
from raycap.storage.parallel import ordered_map
from raycap.storage.ranged import RangedFile
from raycap.storage.stores import ImageReader
from raycap.storage.tars import CompressedTar, DamagedTar, sample_key, sample_of, tar_members

REPLACED, OTHER_IMAGE, NO_IMAGE, NO_SUFFIX = (
    "replaced member",
    "other image of its sample",
    "sample without image",
    "member without suffix",
)
"""What is left out of a tar, as it is counted."""
INDEX = "shards/"
"""Folder of an output with an index per tar."""
DAMAGED = "(damaged)"
"""Stands for the rest of a damaged tar in the id of its row."""

_LOCAL_BLOCK_BYTES = 16_384
# A request to S3 takes about as long as transferring 2 MB.
_REMOTE_BLOCK_BYTES = 4_194_304
_SUFFIX_RANKS = {".jpg": 0, ".jpeg": 1, ".png": 2, ".webp": 3}
_METADATA = re.compile(r"__[^/]*__($|/)")  # as webdataset has it
_ABOUT = b"raycap"
_MOST_LINKS = 8


_Places = dict[str, tuple[int, int]]


class Shard(NamedTuple):
    """A tar of a source."""

    key: str
    """Its path, relative to the source."""
    uri: str
    """Its address, with a signature if it needs one."""
    size_bytes: int
    etag: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TarIndex:
    """The images of a tar."""

    members: pa.Table
    """TAR_INDEX rows, sorted by name."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was left out, by the reason."""
    damage: str | None = None
    """Why the rest of the tar cannot be read; None if it was read to its end."""

    def manifest(self, shard: Shard, *, has_context: bool = False) -> pa.Table:
        """Return the MANIFEST rows of the images, and of the damage if there is any.

        Args:
            shard: The tar.
            has_context: Add the places of the text members of the same samples.
        """
        members = self.members
        offsets = members[OFFSET_BYTES].cast(pa.string())
        sizes = members[SIZE_BYTES].cast(pa.string())
        ids = _joined(f"{shard.key}/", members[NAME])
        uris = _joined(f"{shard.uri}#offset=", offsets, "&size=", sizes)
        etags = pa.nulls(len(members), pa.string())
        if shard.etag is not None:
            etags = _joined(f"{shard.etag}#", offsets)
        contexts = pa.nulls(len(members), pa.string())
        if has_context:
            beside = members[BESIDE].to_pylist()
            contexts = pa.array([_context(shard, places) for places in beside], pa.string())
        columns = [ids, uris, members[SIZE_BYTES], etags, contexts]
        table = pa.table(columns, schema=MANIFEST)
        return table if self.damage is None else self._with_damage(table, shard, self.damage)

    def _with_damage(self, images: pa.Table, shard: Shard, damage: str) -> pa.Table:
        """Add a failed row, so that the damage is reported and counted."""
        reason = f"{damage}; the {len(images):,} images before that are rows of their own"
        name, address = f"{shard.key}/{DAMAGED}", unusable(shard.uri, reason)
        columns = [[name], [address], [None], [shard.etag], [None]]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, MANIFEST, strict=True)]
        both = pa.concat_tables([images, pa.table(arrays, schema=MANIFEST)])
        return both.sort_by(MANIFEST.names[0]).combine_chunks()


def _context(shard: Shard, places: list[dict[str, Any]]) -> str:
    """Return the context of an image with text members: their versions by name."""
    versions = {}
    for place in places:
        span = Member(shard.etag or "", place[OFFSET_BYTES], place[SIZE_BYTES]).uri
        versions[place[NAME]] = span
    return encode_sidecars(versions)


def _joined(*pieces: "str | pa.ChunkedArray") -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*pieces, "")


class KnownShards:
    """The indexes that an output keeps of tars: a tar is read once, as long as it is the same.

    They hold names and places, but no address.
    """

    def __init__(self, store: Store, *, is_written: bool) -> None:
        """Open.

        Args:
            store: The output.
            is_written: Add the indexes of further tars.
        """
        self._store = store
        self._is_written = is_written

    def find(self, shard: Shard) -> TarIndex | None:
        """Return the index of a tar; None if there is none of this version."""
        if shard.etag is None:
            return None
        try:
            found = pq.read_table(BytesIO(self._store.read(_index_key(shard))))
        except (ObjectNotFound, pa.ArrowException, OSError):  # a damaged one is written again
            return None
        about = json.loads((found.schema.metadata or {}).get(_ABOUT, b"{}"))
        if about.get("etag") != shard.etag or about.get("size_bytes") != shard.size_bytes:
            return None
        members = found.replace_schema_metadata().cast(TAR_INDEX)
        return TarIndex(members=members, skipped=about["skipped"], damage=about["damage"])

    def keep(self, shard: Shard, index: TarIndex) -> None:
        """Add the index of a tar whose version is known."""
        if not self._is_written or shard.etag is None:
            return
        about = {
            "tar": shard.key,
            "etag": shard.etag,
            "size_bytes": shard.size_bytes,
            "skipped": index.skipped,
            "damage": index.damage,
        }
        sink = BytesIO()
        members = index.members.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        pq.write_table(members, sink, compression="zstd")
        self._store.write(_index_key(shard), sink.getvalue())


def _index_key(shard: Shard) -> str:
    digest = blake2b(redact(shard.uri).encode(), digest_size=16).hexdigest()
    return f"{INDEX}{digest}.parquet"


def shard_tables(
    shards: list[Shard],
    reader: ImageReader,
    num_threads: int,
    skipped: Counter[str],
    known: KnownShards | None = None,
    *,
    has_context: bool = False,
) -> Iterator[pa.Table]:
    """Yield the images of tars as MANIFEST tables sorted by id, a table per tar.

    Tars are read in parallel; the members of twice as many are in memory.

    Args:
        shards: The tars.
        reader: Reads them.
        num_threads: Tars to read at a time.
        skipped: Counts what is left out.
        known: The indexes that the output keeps.
        has_context: Also give the places of the text members beside the images.

    Raises:
        ConfigError: a tar is compressed, or named as the folder of another one.
        StorageError: a tar cannot be read.
    """
    ordered = sorted(shards, key=lambda shard: f"{shard.key}/")
    for one, other in pairwise(ordered):
        if other.key.startswith(f"{one.key}/"):
            raise ConfigError(
                f"{redact(other.uri)}: is in a folder with the name of a tar, {one.key}; give them "
                "in a run each",
                uri=redact(other.uri),
            )
    find = partial(_find, reader=reader, known=known)
    for shard, index in zip(ordered, ordered_map(find, ordered, num_threads), strict=True):
        skipped.update(index.skipped)
        table = index.manifest(shard, has_context=has_context)
        if len(table):
            yield table


def _find(shard: Shard, reader: ImageReader, known: KnownShards | None) -> TarIndex:
    if known is not None and (found := known.find(shard)) is not None:
        return found
    index = read_index(shard, reader)
    # It may have been replaced since it was listed; then its images will be found to have changed.
    if known is not None and reader.tar_version(shard.uri) == shard.etag:
        known.keep(shard, index)
    return index


def read_index(shard: Shard, reader: ImageReader) -> TarIndex:
    """Read the headers of a tar.

    Raises:
        ConfigError: it is compressed.
        StorageError: it cannot be read.
    """
    is_local = Address.parse(shard.uri).is_local
    block_bytes = _LOCAL_BLOCK_BYTES if is_local else _REMOTE_BLOCK_BYTES
    places: _Places = {}
    links: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    damage = None
    file = RangedFile(reader, shard.uri, shard.size_bytes)
    try:
        with BufferedReader(file, min(block_bytes, max(1, shard.size_bytes))) as data:
            for member in tar_members(data, shard.size_bytes):
                name = display(member.name)
                if member.target is not None:
                    links[name] = display(member.target)
                    continue
                # As `tar -x` leaves the later one of two files of the same name.
                skipped[REPLACED] += name in places
                places[name] = (member.offset_bytes, member.size_bytes)
    except CompressedTar as error:
        shown = redact(shard.uri)
        raise ConfigError(
            f"{shown}: {error}: no image could be read without all those before it; decompress it",
            uri=shown,
        ) from error
    except DamagedTar as error:
        damage = str(error)
    places |= _linked(links, places, skipped)
    names = sorted(_images(places, skipped))
    rows = [_row(name, places) for name in names]
    counts = {reason: count for reason, count in skipped.items() if count}
    return TarIndex(
        members=pa.Table.from_pylist(rows, schema=TAR_INDEX), skipped=counts, damage=damage
    )


def _row(name: str, places: _Places) -> dict[str, Any]:
    """Return an image as a TAR_INDEX row, with what the sample says in text."""
    beside = []
    for suffix in SIDECAR_SUFFIXES:
        names = (name + suffix, posixpath.splitext(name)[0] + suffix)
        if (found := next((n for n in names if n in places), None)) is not None:
            beside.append(_placed(found.rpartition("/")[2], places[found]))
    return {**_placed(name, places[name]), BESIDE: beside}


def _placed(name: str, place: tuple[int, int]) -> dict[str, Any]:
    return {NAME: name, OFFSET_BYTES: place[0], SIZE_BYTES: place[1]}


def _linked(links: dict[str, str], places: _Places, skipped: Counter[str]) -> _Places:
    """Return the places of links: those of the files that they lead to."""
    found = {}
    for name, target in links.items():
        for _ in range(_MOST_LINKS):
            if target in places or target not in links:
                break
            target = links[target]
        if target in places:
            found[name] = places[target]
        else:
            skipped[DANGLING] += 1
    return found


def _images(places: _Places, skipped: Counter[str]) -> Iterator[str]:
    """Yield the names of the images to caption, one of each sample."""
    samples: set[str] = set()
    images: list[tuple[str, str, str | None, str]] = []
    for name in places:
        if _METADATA.match(name):
            continue
        if (reason := _why_left_out(name)) is not None:
            skipped[reason] += 1
            continue
        samples.add(sample_key(name))
        key, dotted, suffix = sample_of(name, IMAGE_SUFFIXES)
        if suffix:
            images.append((name, key, dotted, suffix))
    skipped[NO_IMAGE] += len(samples - {sample_key(name) for name, *_ in images})
    # `a.seg.png` beside `a.jpg` is another field of that sample, but `st.john.jpg` is an image of
    # its own if there is no `st.jpg`: who packs folders does not think of keys.
    plain = {key for _, key, dotted, _ in images if dotted is None}
    best: dict[str, tuple[int, str]] = {}
    for name, key, dotted, suffix in images:
        if dotted is None or dotted not in plain:
            this = (_SUFFIX_RANKS.get(suffix, len(_SUFFIX_RANKS)), name)
            best[key] = min(best.get(key, this), this)
    skipped[OTHER_IMAGE] += len(images) - len(best)
    yield from (name for _, name in best.values())


def _why_left_out(name: str) -> str | None:
    if folder := system_folder(name):
        return folder
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return HIDDEN
    return None if "." in base else NO_SUFFIX


def tar_fields(
    shard: Shard, reader: ImageReader, wanted: Collection[str], num_probed: int
) -> list[str]:
    """Return the fields in the first text members of a tar, until all wanted are found.

    Raises:
        ConfigError: the tar is compressed.
        StorageError: it cannot be read.
    """
    found: dict[str, None] = {}
    rows = read_index(shard, reader).manifest(shard, has_context=True).slice(0, num_probed)
    for uri, context in zip(rows[URI].to_pylist(), rows[CONTEXT].to_pylist(), strict=True):
        for name, member in sidecar_uris(context, uri).items():
            with suppress(ImageError, *UNREADABLE):  # the row of its image says so
                found.update(dict.fromkeys(_fields_of(reader, name, member)))
        if found.keys() >= set(wanted):
            break
    return list(found)


def _fields_of(reader: ImageReader, name: str, member: str) -> list[str]:
    return list(fields_of_sidecar(name, reader.read(member, MAX_SIDECAR_BYTES)))
