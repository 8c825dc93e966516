"""Result of preparing a caption dataset: counts, splits, and what was left out.

    dataset.json                  the DatasetRecord below; written last: with it, it is complete
    parts.parquet                 PART_INDEX: every part with its first and last image id
    rejected.parquet              REJECTED: captions and images left out, with the reason
    train/part-000000.parquet     DATASET rows sorted by image id; and so on, for each split
    lock.json                     held while a run writes
    _work/                        what an interrupted run continues from; deleted once complete

Part 7 of every split covers the same range of ids, and every id of part 8 comes after it.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from raycap.errors import DatasetError
from raycap.results.display import Displayed
from raycap.runs.records import encode_json, read_if_any
from raycap.storage.address import check_exists
from raycap.storage.base import Store

DATASET = "dataset.json"
INDEX = "parts.parquet"
REJECTED = "rejected.parquet"
WORK = "_work/"
PLAN = f"{WORK}plan.json"
"""Plan of an unfinished dataset; exists once planning is complete."""


class RejectReason(StrEnum):
    """Reason to leave out a caption or an image; unreadable images have an ErrorCode instead."""

    NO_CAPTION = "no_caption"
    """An image with no caption, or only empty ones."""
    EMPTY_CAPTION = "empty_caption"
    """A caption without a letter, or not a text; the image is kept if it has another caption."""
    NO_IMAGE = "no_image"
    """A caption whose image is not in the source."""
    DUPLICATE_ID = "duplicate_id"
    """Another file with an id that already exists: the first is kept."""
    SPLIT_CONFLICT = "split_conflict"
    """An image that the source assigns to several splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """Counts of one split."""

    num_images: int
    num_captions: int
    num_bytes: int
    """Size of its parts."""
    mean_tokens: float
    """Tokens per caption."""
    lengths: dict[int, int]
    """Number of captions by their length in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Minimum, median and maximum of a number."""

    min: int
    median: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Images whose files are identical, byte for byte."""

    num_groups: int
    num_images: int
    """Images in all groups."""
    num_moved: int
    """Images that were moved to the split of the first image of their group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Identical files in different splits; only possible if the source defines the splits."""

    num_groups: int
    num_images: int
    """Images in all groups."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """For the first few groups, one image id per split."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DatasetRecord(Displayed):
    """Content and origin of a caption dataset. In `dataset.json`.

    Each image and each caption of the source is either in it, rejected, or not in the subset.
    """

    source: str
    """Address of the annotations."""
    format: str
    num_images: int
    num_captions: int
    splits: dict[str, SplitSummary]
    rejected_images: dict[str, int]
    """Number of images left out, by reason."""
    rejected_captions: dict[str, int]
    """Number of captions left out, by reason: those of rejected images, and empty ones."""
    num_images_not_in_subset: int
    num_captions_not_in_subset: int
    num_source_images: int
    """Distinct files that the source names, and ids without a file."""
    num_source_captions: int
    num_source_bytes: int
    """Bytes read for the images that were kept."""
    duplicates: Duplicates
    leakage: Leakage
    tokenizer: str
    """All lengths in tokens depend on it."""
    vocabulary_size: int
    """Distinct tokens of all captions."""
    width_px: Spread
    """Of the kept images, upright."""
    height_px: Spread
    megapixels: dict[str, int]
    """Number of images by size: `0-0.125` megapixels, `0.125-0.25`, and so on, doubling."""
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    """All that decides the content; only a run with the same fingerprint may continue it."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = ""
    notes: list[str] = field(default_factory=list)
    """What is notable about the source, one line each."""
    source_state: str = ""
    """A digest of the annotations when they were read; empty in records of older versions."""


_FORM = TypeAdapter(DatasetRecord)


def is_dataset(store: Store) -> bool:
    """Return whether a store holds a caption dataset, complete or not.

    Raises:
        StorageError: the store refuses.
    """
    return store.exists(DATASET) or store.exists(PLAN)


def write_record(store: Store, record: DatasetRecord) -> None:
    """Write `dataset.json`, the last file of a dataset."""
    store.write(DATASET, encode_json(asdict(record)))


def read_record(store: Store) -> DatasetRecord:
    """Read `dataset.json`.

    Raises:
        ConfigError: there is nothing at the path.
        DatasetError: there is none, the dataset is unfinished, or the file is damaged.
        StorageError: the store refuses.
    """
    found = read_if_any(_FORM, store, DATASET, "prepare it again")
    if found is not None:
        return found
    if store.exists(PLAN):
        raise DatasetError(
            f"{store.uri}: is not finished; run the same `raycap prepare` command to continue",
            uri=store.uri,
        )
    check_exists(store.uri)
    raise DatasetError(
        f"{store.uri}: is not a caption dataset (it has no {DATASET}); give the folder or "
        "bucket prefix that `raycap prepare` wrote to",
        uri=store.uri,
    )
