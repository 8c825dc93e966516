"""The section of a caption dataset: its splits, what was left out, lengths, images to look at."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pyarrow.compute as pc

from raycap import schema
from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.parts import read_table
from raycap.datasets.record import REJECTED, DatasetRecord
from raycap.report.axes import Plot
from raycap.report.blocks import Fact, Failure, Tile, failure_table, flat_facts, last_name
from raycap.report.dataset_gallery import dataset_gallery
from raycap.report.gallery import Gallery
from raycap.report.numbers import byte_count, decimal, integer, moment, percent
from raycap.report.plots import Histogram, length_plot
from raycap.storage.base import Store

_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRow:
    """One split, as shown."""

    name: str
    num_images: str
    num_captions: str
    mean_tokens: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSection:
    """What the page shows of a caption dataset."""

    template: ClassVar[str] = "dataset.html.jinja"
    kind: ClassVar[str] = "Dataset"

    anchor: str
    title: str
    address: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    splits: tuple[SplitRow, ...]
    lengths: Plot
    rejected_images: tuple[Failure, ...]
    rejected_captions: tuple[Failure, ...]
    leakage: str
    """What is wrong with the splits; empty where nothing is."""
    settings: tuple[Fact, ...]
    gallery: Gallery


def dataset_section(store: Store, anchor: str, config: ReportConfig) -> DatasetSection:
    """Read what a prepared dataset tells of itself, and build its section.

    Raises:
        DatasetError: it is unfinished or damaged.
        StorageError: the store refuses.
    """
    dataset = open_dataset(store.uri, config.storage)
    record, examples = dataset.record, _rejected(dataset)
    lengths = _lengths(record)
    return DatasetSection(
        anchor=anchor,
        title=last_name(store.uri),
        address=store.uri,
        summary=(
            f"from {record.source}",
            record.format,
            f"tokenizer {record.tokenizer}",
            moment(record.created_at),
        ),
        tiles=_tiles(record, lengths.mean),
        splits=tuple(_splits(record)),
        lengths=length_plot(f"{anchor}-length-plot", "tokens", lengths),
        rejected_images=failure_table(record.rejected_images, examples),
        rejected_captions=failure_table(record.rejected_captions, examples),
        leakage=_leakage(record),
        settings=_settings(record, store),
        gallery=dataset_gallery(dataset, config),
    )


def _lengths(record: DatasetRecord) -> Histogram:
    counts: Counter[int] = Counter()
    for split in record.splits.values():
        counts.update(split.lengths)
    total = sum(length * count for length, count in counts.items())
    return Histogram(counts=counts, mean=total / max(1, counts.total()))


def _tiles(record: DatasetRecord, mean_tokens: float) -> tuple[Tile, ...]:
    num_rejected = sum(record.rejected_images.values())
    num_seen = record.num_images + num_rejected
    size = f"{record.width_px.median} \N{MULTIPLICATION SIGN} {record.height_px.median}"
    return (
        Tile(label="images", value=integer(record.num_images)),
        Tile(label="captions", value=integer(record.num_captions)),
        Tile(label="tokens a caption", value=decimal(mean_tokens, 1)),
        Tile(label="vocabulary", value=integer(record.vocabulary_size)),
        Tile(label="median size", value=size, note="pixels"),
        Tile(
            label="images left out",
            value=integer(num_rejected),
            note=percent(num_rejected / max(1, num_seen)),
        ),
    )


def _splits(record: DatasetRecord) -> list[SplitRow]:
    return [
        SplitRow(
            name=name,
            num_images=integer(split.num_images),
            num_captions=integer(split.num_captions),
            mean_tokens=decimal(split.mean_tokens, 1),
            size=byte_count(split.num_bytes),
        )
        for name, split in record.splits.items()
    ]


def _rejected(dataset: CaptionDataset) -> dict[str, tuple[Fact, ...]]:
    """Give some images or captions that were left out for each reason."""
    table = read_table(dataset.store, REJECTED, schema.REJECTED)
    return {
        reason: tuple(
            (row[schema.IMAGE_ID], row[schema.MESSAGE] or row[schema.CAPTION] or "")
            for row in table.filter(pc.equal(table[schema.REASON], reason))
            .slice(0, _EXAMPLES_SHOWN)
            .to_pylist()
        )
        for reason in table[schema.REASON].unique().to_pylist()
    }


def _leakage(record: DatasetRecord) -> str:
    found = record.leakage
    if not found.num_groups:
        return ""
    examples = "; ".join(
        ", ".join(f"{split}: {image_id}" for split, image_id in example.items())
        for example in found.examples
    )
    return (
        f"{integer(found.num_images)} images, in {integer(found.num_groups)} groups of the same "
        f"file, stand in more than one split: {examples}"
    )


def _settings(record: DatasetRecord, store: Store) -> tuple[Fact, ...]:
    sizes = ", ".join(f"{name}: {integer(count)}" for name, count in record.megapixels.items())
    duplicates = record.duplicates
    return (
        ("dataset", store.uri),
        ("source", f"{record.source} ({record.format})"),
        ("tokenizer", record.tokenizer),
        ("images by megapixels", sizes),
        (
            "duplicate files",
            f"{integer(duplicates.num_images)} in {integer(duplicates.num_groups)} groups, "
            f"{integer(duplicates.num_moved)} moved to the split of their first",
        ),
        ("images not in the subset", integer(record.num_images_not_in_subset)),
        ("captions not in the subset", integer(record.num_captions_not_in_subset)),
        ("finished", moment(record.created_at)),
        *flat_facts(record.config),
        *flat_facts(record.versions, "version"),
    )
