"""Export to a dataset for the Hugging Face Hub, as `datasets.load_dataset` reads it.

data/part-000000.parquet   the captioned images of a part, with their captions
raycap/run.json            the run: what decides its captions, and all settings
raycap/summary.json        its counts
README.md                  the dataset card; written last

Every Parquet file says in its footer which rows it was made from. A second export therefore writes
only what is missing or has changed, whether the first was killed or the run has grown since.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from raycap.captioning.parts import read_footer_bytes
from raycap.captioning.source import is_held, with_held_files
from raycap.config import Existing, HubImages
from raycap.errors import ConfigError
from raycap.exporting.destination import NUM_SHOWN, open_folder, refuse, staged
from raycap.exporting.hf_card import CARD, CardState, Counts, card_state, records, write_card
from raycap.exporting.hf_columns import IMAGE_TYPE, Chosen, choose_rows, dataset_schema
from raycap.exporting.hf_push import open_repository
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.names import safe_path
from raycap.exporting.tars import fetch_image
from raycap.exporting.values import rows_of
from raycap.parsing import parse_json
from raycap.results.captioning import ExportCounts, read_caption_run
from raycap.runs.records import fingerprint_digest
from raycap.schema import ETAG, FINISH, FLAG, IMAGE_ID, MODEL, URI
from raycap.storage.base import KEY, Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

DATA = "data/"
_SHARD_THREADS = 4  # files at the same time
_FETCH_THREADS = 4  # images per file at the same time; twice as many are in memory
_GROUP_ROWS = 100  # as `datasets` writes images: the viewer of the Hub reads whole row groups
_GROUP_BYTES = 32 * 1024 * 1024
_ROW_INDEX = "row_index"
_REPEATED = [MODEL, FINISH, FLAG]  # columns of few different values
_FOOTER_KEY = b"raycap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What a file of the dataset contains. In its Parquet footer."""

    run: str
    """Digest of the fingerprint of the run."""
    content: str
    """Digest of the rows and the form that it was made from."""
    num_rows: int
    failed: dict[str, int]
    """Rows of the part without a caption, by error code."""
    num_words: dict[str, dict[int, int]]
    """Rows by the number of words of their answer, by prompt."""
    num_unreadable: int = 0
    """Captioned images that could not be read, or had changed."""
    unreadable: list[str] = field(default_factory=list)
    """Messages about the first few of those."""


_SHARD_FORM = TypeAdapter(Shard)


def shard_key(number: int) -> str:
    """Return the key of the file of a part."""
    return f"{DATA}part-{number:06d}.parquet"


def _export_dataset(job: ExportJob) -> ExportCounts:
    store = open_folder(job.destination, job.rows.config)
    writer = _Writer(job, store)
    repository = open_repository(job.hub, store, writer.run, job.existing)
    standing = writer.find_standing()
    card = card_state(store)
    foreign = standing.foreign + ([CARD] if card is CardState.FOREIGN else [])
    if job.existing is not Existing.OVERWRITE:
        refuse(store, iter(foreign))
    shards = writer.write(standing.shards)
    for key in standing.foreign:
        if key not in writer.keys:
            store.delete(key)
    counts = _count(shards)
    written = records(job.rows.store)
    for key, data in written.items():
        store.write(key, data)
    keeps_card = card is CardState.EDITED and job.existing is not Existing.OVERWRITE
    if not keeps_card:
        write_card(store, job, writer.schema, counts, writer.run)
    store.remove_leftovers(DATA)
    notes = [_CARD_KEPT] if keeps_card else []
    stood = {id(shard) for shard in standing.shards.values()}
    if num_kept := sum(id(shard) in stood for shard in shards):
        notes.append(f"{num_kept} of {len(shards)} files were there already")
    pushed = None
    if repository is not None:
        pushed = repository.push([*writer.keys, *written], counts.num_rows)
        notes += pushed.notes
    return ExportCounts(
        num_exported=counts.num_rows,
        num_failed_skipped=sum(counts.failed.values()),
        num_unreadable=counts.num_unreadable,
        unreadable=tuple(message for shard in shards for message in shard.unreadable)[:NUM_SHOWN],
        num_files=len(shards),
        notes=tuple(notes),
        pushed=pushed,
    )


_CARD_KEPT = (
    f"{CARD} has been edited since raycap wrote it, and is kept; --existing overwrite replaces it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What the destination holds already."""

    shards: dict[int, Shard]
    """Files of this run, by part."""
    foreign: list[str]
    """Files that would be taken for files of the dataset, or overwritten."""


class _Writer:
    """Writes the files of a dataset."""

    def __init__(self, job: ExportJob, store: Store) -> None:
        source = job.rows
        if not source.parts:
            raise ConfigError("--where: no image meets the condition", setting="where")
        self.keys = [shard_key(number) for number in source.parts]
        self.run = fingerprint_digest(read_caption_run(source.store).get("fingerprint", {}))
        self._source = source
        self._store = store
        self._images = job.hub.images
        self._prompts = job.hub.prompts(source)
        self._reader = ImageReader(source.config)
        self.schema = dataset_schema(self._chosen(source.parts[0]).rows.schema)
        self._form = {
            "images": self._images,
            "schema": self.schema.to_string(show_schema_metadata=True),
        }

    def _chosen(self, number: int) -> Chosen:
        return choose_rows(self._source.part(number), self._source, self._prompts)

    def find_standing(self) -> _Standing:
        """Find the files that `data/part-*.parquet` matches, and read whose they are."""
        keys = [key for page in self._store.list(DATA) for key in page[KEY].to_pylist()]
        keys = [key for key in keys if _is_shard(key)]
        found = ordered_map(
            partial(_read_shard, self._store), keys, self._source.config.list_threads
        )
        numbers = dict(zip(self.keys, self._source.parts, strict=True))
        shards: dict[int, Shard] = {}
        foreign: list[str] = []
        for key, shard in zip(keys, found, strict=True):
            if key in numbers and shard is not None and shard.run == self.run:
                shards[numbers[key]] = shard
            else:
                foreign.append(key)
        return _Standing(shards=shards, foreign=foreign)

    def write(self, standing: dict[int, Shard]) -> list[Shard]:
        """Write the files that are missing or outdated, and return what all contain."""
        write = partial(self._write_shard, standing)
        return list(ordered_map(write, self._source.parts, _SHARD_THREADS))

    def _write_shard(self, standing: dict[int, Shard], number: int) -> Shard:
        chosen = self._chosen(number)
        content = self._digest(chosen)
        found = standing.get(number)
        # Images that could not be read are tried again.
        if found is not None and found.content == content and not found.num_unreadable:
            return found
        written: list[int] = []
        unreadable: list[str] = []
        with staged(self._store, shard_key(number)) as file, _opened(file, self.schema) as parquet:
            for group in self._groups(chosen, written, unreadable):
                parquet.write_table(group, row_group_size=len(group))
            shard = Shard(
                run=self.run,
                content=content,
                num_rows=len(written),
                failed=dict(sorted(chosen.failed.items())),
                num_words={
                    name: _counted(column.take(pa.array(written, pa.int64())))
                    for name, column in chosen.num_words.items()
                },
                num_unreadable=len(unreadable),
                unreadable=unreadable[:NUM_SHOWN],
            )
            parquet.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(shard))})
        return shard

    def _digest(self, chosen: Chosen) -> str:
        digest = blake2b(json.dumps(self._form).encode(), digest_size=16)
        for table in (chosen.rows, chosen.sources.select([URI, ETAG])):
            for row in rows_of(table):
                digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()

    def _groups(
        self, chosen: Chosen, written: list[int], unreadable: list[str]
    ) -> Iterator[pa.Table]:
        """Yield row groups, and note which rows are in them, and why others are not."""
        images: list[dict[str, Any]] = []
        num_bytes = 0
        for index, image in self._read(chosen):
            if isinstance(image, str):
                unreadable.append(image)
                continue
            written.append(index)
            images.append(image)
            num_bytes += len(image["bytes"] or b"")
            if len(images) >= _GROUP_ROWS or num_bytes >= _GROUP_BYTES:
                yield self._group(chosen, written[-len(images) :], images)
                images, num_bytes = [], 0
        if images:
            yield self._group(chosen, written[-len(images) :], images)

    def _group(self, chosen: Chosen, indices: list[int], images: list[dict[str, Any]]) -> pa.Table:
        rows = chosen.rows.take(pa.array(indices, pa.int64()))
        return pa.table(
            [pa.array(images, IMAGE_TYPE), *rows.columns], names=self.schema.names
        ).cast(self.schema)

    def _read(self, chosen: Chosen) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield the index of each row and its image, or why it cannot be read."""
        numbered = chosen.sources.append_column(_ROW_INDEX, pa.array(range(len(chosen.sources))))
        rows = rows_of(numbered)
        if self._images is HubImages.ADDRESSES:
            for row in rows:
                yield row[_ROW_INDEX], self._address(row)
            return
        fetch = partial(fetch_image, self._reader, self._source.max_image_bytes)
        held = with_held_files(rows, self._source.dataset, self._source.config)
        for row, image in ordered_map(fetch, held, _FETCH_THREADS):
            name = posixpath.basename(safe_path(row[IMAGE_ID]))
            found = image if isinstance(image, str) else {"bytes": image, "path": name}
            yield row[_ROW_INDEX], found

    def _address(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._source.dataset is not None and is_held(row, self._source.dataset):
            raise ConfigError(
                f"{self._source.dataset}: holds the images itself, so that they have no addresses: "
                "leave out --images addresses",
                uri=self._source.dataset,
                setting="images",
            )
        return {"bytes": None, "path": row[URI]}


def _opened(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        use_dictionary=[name for name in _REPEATED if name in schema.names],
        write_statistics=[IMAGE_ID],  # those of images would be whole images
        write_page_index=True,
        use_content_defined_chunking=True,  # what has not changed is not uploaded again
    )


def _counted(column: pa.ChunkedArray) -> dict[int, int]:
    return dict(sorted(Counter(column.drop_null().to_pylist()).items()))


def _is_shard(key: str) -> bool:
    name = key.removeprefix(DATA)
    return "/" not in name and name.startswith("part-") and name.endswith(".parquet")


def _read_shard(store: Store, key: str) -> Shard | None:
    """Read what a file contains; None if raycap did not write it."""
    try:
        footer = pq.read_metadata(pa.BufferReader(read_footer_bytes(store, key)))
        return _SHARD_FORM.validate_python(parse_json((footer.metadata or {})[_FOOTER_KEY]))
    except (pa.ArrowException, OSError, KeyError, ValueError, ValidationError):
        return None


def _count(shards: list[Shard]) -> Counts:
    failed: Counter[str] = Counter()
    num_words: dict[str, Counter[int]] = {}
    for shard in shards:
        failed.update(shard.failed)
        for name, counted in shard.num_words.items():
            num_words.setdefault(name, Counter()).update(counted)
    return Counts(
        num_rows=sum(shard.num_rows for shard in shards),
        failed=failed,
        num_unreadable=sum(shard.num_unreadable for shard in shards),
        num_words=num_words,
    )


EXPORTER = Exporter(
    write=_export_dataset,
    options=frozenset({"columns", "images", "license", "push", "public"}),
)
