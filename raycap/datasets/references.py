"""References of an evaluation: a caption dataset, or anything that `prepare` reads."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from raycap import schema
from raycap.config import PrepareEngineConfig, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.grouping import AnnotatedImage, read_groups
from raycap.datasets.readers import open_annotations
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.datasets.splits import known_split
from raycap.errors import DatasetError
from raycap.results.dataset import is_dataset
from raycap.storage.address import Address
from raycap.storage.stores import open_store

_PAGE_ROWS = 8_192


@dataclass(slots=True, kw_only=True)
class References:
    """References to be read once; `dropped` is filled while they are read."""

    source: str
    """Their absolute address."""
    tables: Iterable[pa.Table]
    """REFERENCES: one row per image, sorted by image id, none without a caption."""
    is_dataset: bool
    """Whether they are from a caption dataset, which has the images too."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rejected captions and images, by reason. A caption dataset rejected its own when it was
    prepared."""


def read_references(
    source: str | Path,
    config: StorageConfig,
    *,
    format: AnnotationFormat | None = None,
    splits: Sequence[str] = (),
) -> References:
    """Open references; they are read when `tables` is iterated.

    Args:
        source: a caption dataset, or annotations, whose images need not exist.
        config: settings of stores.
        format: format of the annotations; None: recognised.
        splits: some splits, by any of their usual names (`val`, `validation`); empty: all.

    Raises:
        ConfigError: the source does not exist, or its format is unknown.
        DatasetError: it is damaged or, now or when it is read, has no image in these splits.
        StorageError: a store refuses.
    """
    wanted = sorted({known_split(name) for name in splits})
    if format is None and _holds_dataset(str(source), config):
        dataset = open_dataset(source, config)
        tables = dataset.references(wanted or None)
        return References(source=dataset.store.uri, tables=tables, is_dataset=True)
    annotations = open_annotations(str(source), config, format=format)
    references = References(source=annotations.source, tables=(), is_dataset=False)
    references.tables = _grouped(annotations.tables, wanted, references)
    return references


def _holds_dataset(source: str, config: StorageConfig) -> bool:
    address = Address.parse(source)
    return not address.is_web and is_dataset(open_store(address, config))


def _grouped(
    tables: Iterable[pa.Table], splits: list[str], references: References
) -> Iterator[pa.Table]:
    images = _images(tables, splits, references)
    while page := list(islice(images, _PAGE_ROWS)):
        rows = [{name: getattr(image, name) for name in schema.REFERENCES.names} for image in page]
        yield pa.Table.from_pylist(rows, schema=schema.REFERENCES)


def _images(
    tables: Iterable[pa.Table], splits: list[str], references: References
) -> Iterator[AnnotatedImage]:
    seen: Counter[str] = Counter()
    for group in read_groups(tables, PrepareEngineConfig().memory_bytes, needs_image=False):
        references.dropped.update(str(rejection.reason) for rejection in group.rejections)
        if group.image is not None:
            seen[group.image.split or "(none)"] += 1
            if not splits or group.image.split in splits:
                yield group.image
    if not any(seen[split] for split in splits or seen):
        there = ", ".join(f"{split} ({count:,} images)" for split, count in sorted(seen.items()))
        raise DatasetError(
            f"{references.source}: no image with a caption"
            + (f" in split {' or '.join(splits)}; there are: {there}" if seen else ""),
            uri=references.source,
        )
