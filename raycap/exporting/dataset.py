"""`raycap prepare`, of annotations or of the captions of a finished run.

So a model can be trained on what reviewers have corrected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from raycap import schema
from raycap.captioning.output import SOURCE_URI, FinishedOutput, open_finished
from raycap.captioning.parts import CAPTIONS, MANIFEST
from raycap.config import EditsMode, PrepareConfig, StorageConfig
from raycap.config.loading import override
from raycap.datasets.grouping import AnnotationRow, Notes
from raycap.datasets.prepare import prepare as prepare_annotations
from raycap.datasets.readers import AnnotationFormat, Annotations
from raycap.datasets.readers.rows import tables_of
from raycap.edits.log import EDITS
from raycap.edits.records import Review
from raycap.errors import ConfigError, DatasetError
from raycap.progress import OnProgress
from raycap.results.dataset import DatasetRecord
from raycap.runs.records import RUN
from raycap.storage.address import Address
from raycap.storage.base import KEY
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts
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
    store = open_store(address, config)
    return store.exists(RUN) and next(list_parts(store, MANIFEST), None) is not None


def prepare(  # noqa: PLR0913  the public call: all but two by keyword
    source: str | Path,
    output: str | Path,
    *,
    format: AnnotationFormat | str | None = None,
    images: str | Path | None = None,
    subset: float | None = None,
    edits: EditsMode | str | None = None,
    config: PrepareConfig | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> DatasetRecord:
    """Convert annotations, or the captions of a finished run, to a Parquet caption dataset.

    The same call continues an interrupted run, with the annotations as they were when it began,
    and does nothing if the dataset is complete. Images that fail for a transient reason (network,
    throttled, timeout) are not rejected: everything else is built, then the run stops, and the
    same call fetches only these.

    Args:
        source: annotations, in a folder or bucket, or an output of `raycap caption`.
        output: a new folder or `s3://bucket/prefix`.
        format: format of the annotations; None: recognised.
        images: folder of the images, if not beside the annotations.
        subset: shorthand for the setting `subset`.
        edits: shorthand for the setting `edits`.
        config: all settings; None: the defaults.
        on_progress: called as images are done; never if there is nothing to do.
        debug: show the output of Ray and of the workers.

    Returns:
        the record, as written to `dataset.json`.

    Raises:
        ConfigError: a setting, the source or the output is wrong.
        DatasetError: the annotations are damaged, the run is unfinished, or no image can be read.
        RunConflict: the output is another dataset, or another run writes it, or the annotations of
            a complete one have changed.
        RunStopped: the run was interrupted, or images failed for a transient reason.
        StorageError: a store refuses.
    """
    config = override(config or PrepareConfig(), {"subset": subset, "edits": edits})
    found: str | Annotations = str(source)
    if is_output(str(source), config.storage):
        for name, value in (("format", format), ("images", images)):
            if value is not None:
                raise ConfigError(
                    f"--{name}: {source} is an output of `raycap caption`, which knows its images; "
                    "leave the option out",
                    setting=name,
                )
        found = annotations_of(
            str(source), config.storage, prompt=config.prompt, edits=config.edits
        )
    return prepare_annotations(
        found,
        output,
        format=format,
        images=images,
        config=config,
        on_progress=on_progress,
        debug=debug,
    )


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
    output = open_finished(source, config, prompt=prompt, edits=edits)
    store = output.store
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
        choices={"edits": str(edits), "prompt": output.prompt},
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
    digest = blake2b(digest_size=16)
    folders = (CAPTIONS,) if output.edits is EditsMode.IGNORE else (CAPTIONS, EDITS)
    for folder in folders:
        for page in output.store.list(folder):
            for row in page.to_pylist():
                digest.update(
                    f"{row[KEY]}\0{row[schema.SIZE_BYTES]}\0{row[schema.ETAG]}\0".encode()
                )
    return digest.hexdigest()
