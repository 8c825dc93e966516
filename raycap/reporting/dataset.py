"""Section of a caption dataset: splits, what was left out, lengths, images."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow.compute as pc

from raycap import schema
from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.parts import read_table
from raycap.reporting.blocks import (
    Fact,
    Failure,
    Section,
    Tile,
    failure_table,
    flat_facts,
    last_name,
)
from raycap.reporting.charts import Plot
from raycap.reporting.gallery import DRAW, Answer, Draws, Example, First, Gallery, Order, Tab
from raycap.reporting.numbers import byte_count, decimal, integer, moment, percent
from raycap.reporting.pictures import Picture, dataset_pictures
from raycap.reporting.plots import Histogram, length_plot
from raycap.results.dataset import REJECTED, DatasetRecord
from raycap.schema import CAPTIONS_LIST, HEIGHT_PX, IMAGE_ID, SPLIT, URI, WIDTH_PX
from raycap.storage.base import Store
from raycap.text import count_words

_COLUMNS = [IMAGE_ID, URI, SPLIT, CAPTIONS_LIST, WIDTH_PX, HEIGHT_PX]
_NUM_WORDS, _NUM_CAPTIONS, _NUM_PIXELS = "words", "captions", "pixels"
_ORDERS = (
    Order(key=_NUM_WORDS, label="Words per caption"),
    Order(key=_NUM_CAPTIONS, label="Captions"),
    Order(key=_NUM_PIXELS, label="Pixels"),
)
_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRow:
    """Formatted counts of one split."""

    name: str
    num_images: str
    num_captions: str
    mean_tokens: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSection(Section):
    """Section of a caption dataset."""

    template: ClassVar[str] = "dataset.html.jinja"
    kind: ClassVar[str] = "Dataset"

    address: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    splits: tuple[SplitRow, ...]
    lengths: Plot
    rejected_images: tuple[Failure, ...]
    rejected_captions: tuple[Failure, ...]
    leakage: str
    """Describes images in several splits; empty if there are none."""
    settings: tuple[Fact, ...]


def dataset_section(store: Store, anchor: str, config: ReportConfig) -> DatasetSection:
    """Read the record of a dataset, and build its section.

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
        Tile(label="tokens per caption", value=decimal(mean_tokens, 1)),
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
    """Return some images or captions that were left out, by reason."""
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
        f"{integer(found.num_images)} images, in {integer(found.num_groups)} groups of identical "
        f"files, are in more than one split: {examples}"
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
            f"{integer(duplicates.num_moved)} moved to the split of the first",
        ),
        *(("note", note) for note in record.notes),
        ("images not in the subset", integer(record.num_images_not_in_subset)),
        ("captions not in the subset", integer(record.num_captions_not_in_subset)),
        ("finished", moment(record.created_at)),
        *flat_facts(record.config),
        *flat_facts(record.versions, "version"),
    )


def dataset_gallery(dataset: CaptionDataset, config: ReportConfig) -> Gallery:
    """Choose images of each split at random; if a split has few, the others show more.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the store refuses.
    """
    rows = _choose(dataset, config)
    pictures = dataset_pictures(dataset, [(row[IMAGE_ID], row[URI]) for row in rows], config)
    examples = [_example(row, picture) for row, picture in zip(rows, pictures, strict=True)]
    return Gallery(
        systems=(),
        tabs=tuple(Tab(key=split, label=split) for split in dataset.splits),
        orders=_ORDERS,
        others_label="Further captions",
        examples=tuple(examples),
    )


def _choose(dataset: CaptionDataset, config: ReportConfig) -> list[dict[str, Any]]:
    left, rows = config.num_examples, list[dict[str, Any]]()
    smallest_first = sorted(
        dataset.splits, key=lambda split: dataset.record.splits[split].num_images
    )
    for num_done, split in enumerate(smallest_first):
        share = left // (len(smallest_first) - num_done)
        draws, first = Draws(config.seed), First(share, DRAW, "ascending")
        for table in dataset.pages([split], _COLUMNS):
            first.add(draws.append_to(table))
        rows += first.rows().to_pylist()
        left = config.num_examples - len(rows)
    return rows


def _example(row: dict[str, Any], picture: Picture) -> Example:
    first, *others = row[CAPTIONS_LIST]
    words = [count_words(caption) for caption in row[CAPTIONS_LIST]]
    size = f"{row[WIDTH_PX]} \N{MULTIPLICATION SIGN} {row[HEIGHT_PX]}"
    answer = Answer(
        caption=first,
        marks=(("split", row[SPLIT]), ("words", str(words[0])), ("pixels", size)),
        values={
            _NUM_WORDS: sum(words) / len(words),
            _NUM_CAPTIONS: float(len(words)),
            _NUM_PIXELS: float(row[WIDTH_PX] * row[HEIGHT_PX]),
        },
    )
    return Example(
        image_id=row[IMAGE_ID],
        picture=picture,
        answers=(answer,),
        others=tuple(others),
        tabs=frozenset([row[SPLIT]]),
    )
