"""What a caption dataset tells of itself, and where everything in it lies.

    dataset.json                  the DatasetRecord below; written last: with it, it is complete
    parts.parquet                 PART_INDEX: every part with its first and last image id
    rejected.parquet              REJECTED: what was left out, and why
    train/part-000000.parquet     DATASET rows sorted by image id; and so on, and so for each split
    lock.json                     held while a run writes
    _work/                        what an interrupted run needs to go on; gone when complete

Part 7 of every split holds ids of the same range, and every id of part 8 comes after it.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError, ObjectNotFound
from raycap.runs.records import encode_json, read_json
from raycap.storage.base import Store

DATASET = "dataset.json"
INDEX = "parts.parquet"
REJECTED = "rejected.parquet"
WORK = "_work/"
PLAN = f"{WORK}plan.json"
"""What an unfinished dataset consists of; there once planning is through."""


class RejectReason(StrEnum):
    """Why a caption or an image was left out; for images that cannot be read, an ErrorCode."""

    NO_CAPTION = "no_caption"
    """An image without any caption, or with empty ones only."""
    EMPTY_CAPTION = "empty_caption"
    """A caption without a letter, or that is no text; the image stays if it has another."""
    NO_IMAGE = "no_image"
    """A caption whose image the source does not have."""
    DUPLICATE_ID = "duplicate_id"
    """Another file under an id that was there before: the first one stays."""
    SPLIT_CONFLICT = "split_conflict"
    """An image that the source puts into several splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """One split."""

    num_images: int
    num_captions: int
    num_bytes: int
    """Size of its parts."""
    mean_tokens: float
    """Tokens a caption."""
    lengths: dict[int, int]
    """Captions by their length in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Least, middle and largest of a number."""

    min: int
    median: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Images whose files are the same, byte for byte."""

    num_groups: int
    num_images: int
    """Images in all groups."""
    num_moved: int
    """Those of them that went to the split of their group's first, instead of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Same files in different splits, which only happens where the source gives the splits."""

    num_groups: int
    num_images: int
    """Images in all groups."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """Of the first few groups, one image id of each split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """What a caption dataset is and how it came about.

    Each image and each caption of the source is either in it, rejected, or not in the subset.
    """

    source: str
    """Address of the annotations."""
    format: str
    num_images: int
    num_captions: int
    splits: dict[str, SplitSummary]
    rejected_images: dict[str, int]
    """Images left out, by reason."""
    rejected_captions: dict[str, int]
    """Captions left out, by reason: those of rejected images, and empty ones of others."""
    num_images_not_in_subset: int
    num_captions_not_in_subset: int
    num_source_images: int
    """Different files that the source names, and ids for which it has none."""
    num_source_captions: int
    num_source_bytes: int
    """Read for the images that were kept."""
    duplicates: Duplicates
    leakage: Leakage
    tokenizer: str
    """Every figure in tokens depends on it."""
    vocabulary_size: int
    """Different tokens of all captions."""
    width_px: Spread
    """Of the images as they would be trained on, upright."""
    height_px: Spread
    megapixels: dict[str, int]
    """Images by their size: `0-0.125` megapixels, `0.125-0.25`, and so on in doublings."""
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    """What decides the content; only the same may continue or find it."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = ""


_FORM = TypeAdapter(DatasetRecord)


def is_dataset(store: Store) -> bool:
    """Whether a caption dataset stands there, complete or not.

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
        DatasetError: there is none, the dataset is unfinished, or the file is damaged.
        StorageError: the store refuses.
    """
    try:
        return _FORM.validate_python(read_json(store, DATASET))
    except ObjectNotFound:
        if store.exists(PLAN):
            raise DatasetError(
                f"{store.uri}: is not finished; run the same `raycap prepare` command to continue"
            ) from None
        raise DatasetError(
            f"{store.uri}: is not a caption dataset (it has no {DATASET}); give the folder or "
            "bucket prefix that `raycap prepare` wrote to"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(
            f"{store.address(DATASET)}: is damaged ({place}: {first['msg']}); prepare it again"
        ) from error
