"""The captions of a finished run as annotations, such as to train on what reviewers corrected."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa

from raycap import schema
from raycap.captioning.output import SOURCE_URI, FinishedOutput, open_finished
from raycap.captioning.parts import CAPTIONS
from raycap.config import EditsMode, StorageConfig
from raycap.datasets.grouping import AnnotationRow, Notes
from raycap.datasets.readers import Annotations
from raycap.datasets.readers.rows import tables_of
from raycap.edits.log import EDITS
from raycap.edits.records import Review
from raycap.errors import ConfigError, DatasetError
from raycap.results.captioning import read_caption_run
from raycap.runs.records import RUN
from raycap.storage.address import Address
from raycap.storage.base import KEY
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import open_store

FORMAT = "raycap"
"""`format` of such annotations."""
_REJECTED = "a reviewer has rejected it"


def is_output(source: str, config: StorageConfig) -> bool:
    """Return whether an address is that of an output of `raycap caption`.

    Raises:
        ConfigError: it is no address of a store.
        StorageError: the store refuses.
    """
    address = Address.parse(source)
    if address.fault or address.is_web:
        return False
    return open_store(address, config).exists(RUN)


def annotations_of(
    source: str,
    config: StorageConfig,
    *,
    prompt: str | None = None,
    edits: EditsMode = EditsMode.APPLY,
) -> Annotations:
    """Open the captions of a finished run as annotations of its images.

    Args:
        source: the output of `raycap caption`.
        config: how stores are reached.
        prompt: the named prompt whose answers to read; None for the first, if the run has any.
        edits: what becomes of the edits of reviewers. Unless they are ignored, captions that were
            rejected count as captions that cannot be used.

    Raises:
        DatasetError: it is unfinished or damaged, of another command, or its images are in a
            caption dataset.
        StorageError: it cannot be read.
    """
    store = open_store(source, config)
    read_caption_run(store)
    output = open_finished(source, config, prompt=prompt, edits=edits)
    if output.dataset is not None:
        raise DatasetError(
            f"{store.uri}: its images are in the caption dataset {output.dataset}; export the "
            "captions with `raycap export --to webdataset`, and prepare the tars",
            uri=store.uri,
        )
    return Annotations(
        source=store.uri,
        format=FORMAT,
        tables=_Tables(output),
        notes=Notes(),
        state=lambda: _state(output),
    )


@dataclass(frozen=True, slots=True)
class _Tables:
    """ANNOTATIONS of an output; each iteration reads it again."""

    output: FinishedOutput

    def __iter__(self) -> Iterator[pa.Table]:
        parts = ordered_map(self.output.part, self.output.parts, self.output.read_ahead)
        return tables_of(row for part in parts for row in _rows(part))


def _rows(part: pa.Table) -> Iterator[AnnotationRow]:
    wanted = [schema.IMAGE_ID, SOURCE_URI, schema.CAPTION, schema.REVIEW]
    names = [name for name in wanted if name in part.column_names]
    for row in part.select(names).to_pylist():
        is_rejected = row.get(schema.REVIEW) == Review.REJECTED
        yield AnnotationRow(
            image_id=row[schema.IMAGE_ID],
            source_id=None,
            uri=row[SOURCE_URI],
            offset_bytes=None,
            size_bytes=None,
            split=None,
            caption=None if is_rejected else row[schema.CAPTION],
            fault=_REJECTED if is_rejected else None,
        )


def _state(output: FinishedOutput) -> str:
    """Return a digest that changes with the captions and their edits."""
    digest = blake2b(f"{output.prompt}\0{output.edits}".encode(), digest_size=16)
    folders = (CAPTIONS,) if output.edits is EditsMode.IGNORE else (CAPTIONS, EDITS)
    for folder in folders:
        for page in output.store.list(folder):
            for row in page.to_pylist():
                digest.update(
                    f"{row[KEY]}\0{row[schema.SIZE_BYTES]}\0{row[schema.ETAG]}\0".encode()
                )
    return digest.hexdigest()


def check_plain(format: str | None, images: str | None, source: str) -> None:
    """Raise ConfigError if options were given that only other annotations have."""
    for name, value in (("format", format), ("images", images)):
        if value is not None:
            raise ConfigError(
                f"--{name}: {source} is an output of `raycap caption`, which knows its images; "
                "leave the option out",
                setting=name,
            )
