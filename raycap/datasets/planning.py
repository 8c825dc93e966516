"""The plan of a dataset: the images of the subset with their captions and splits, in parts.

Planning happens once. An interrupted run continues with the existing plan, even if the annotations
have changed since.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from raycap import schema
from raycap.config import PrepareConfig
from raycap.datasets.grouping import AnnotatedImage, Group, Notes, Rejection, read_groups
from raycap.datasets.parts import (
    IS_GIVEN,
    PLANNED,
    PLANNED_PARTS,
    RANK,
    RowGroupWriter,
    encode_table,
)
from raycap.datasets.splits import (
    hashed_split,
    is_below_split_folder,
    rank_of,
    subset_limit,
)
from raycap.errors import ConfigError, DatasetError
from raycap.results.dataset import PLAN, WORK, RejectReason
from raycap.runs.records import encode_json, read_if_any
from raycap.storage.address import redact, redact_text
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import part_key
from raycap.text import script_of

_MANY_MIXED = 0.1
_DEEP_SPLIT = (
    "images have a folder named like a split below another folder, where it does not count, and "
    "were split by hash; to keep such splits, name them in a column `split`"
)
_SAME_ID = "files have the id of another, and are rejected as duplicate_id"

PLANNED_REJECTIONS = f"{WORK}rejected.parquet"


@dataclass(slots=True, kw_only=True)
class DatasetPlan:
    """What is built, and counts of everything else in the source."""

    fingerprint: dict[str, Any]
    part_size: int
    num_images: int = 0
    """Images to build; all parts but the last have `part_size` of them."""
    num_captions: int = 0
    num_source_images: int = 0
    num_source_captions: int = 0
    num_images_not_in_subset: int = 0
    num_captions_not_in_subset: int = 0
    rejected_images: dict[str, int] = field(default_factory=dict)
    rejected_captions: dict[str, int] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    """Every split with a planned image."""
    source_state: str = ""
    """The state of the source when it was planned; empty in plans of older versions."""
    notes: list[str] = field(default_factory=list)
    """What is notable about the source, one line each."""

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return -(-self.num_images // self.part_size)

    def images_of(self, number: int) -> int:
        """Return the number of images of a part."""
        return min(self.part_size, self.num_images - number * self.part_size)


_FORM = TypeAdapter(DatasetPlan)


def read_plan(store: Store) -> DatasetPlan | None:
    """Read the plan of an unfinished dataset; None if there is none.

    Raises:
        DatasetError: it is damaged.
    """
    remedy = "restore the file, or prepare the dataset again in a new output"
    return read_if_any(_FORM, store, PLAN, remedy)


def write_plan(
    store: Store,
    tables: Iterable[pa.Table],
    config: PrepareConfig,
    fingerprint: dict[str, Any],
    *,
    source_state: str = "",
    notes: Notes | None = None,
) -> DatasetPlan:
    """Group the annotations, choose the subset and the splits, and write the parts to build.

    Memory does not grow with the annotations; see `engine.memory_bytes`.

    Args:
        store: the output.
        tables: ANNOTATIONS, in any order.
        config: all settings.
        fingerprint: must be equal for a run to continue.
        source_state: the state of the source now.
        notes: what is notable about the source, filled by reading it.

    Raises:
        ConfigError: images in tars or tables are to be referenced, but have no address.
        DatasetError: the source has no image with a caption.
    """
    notes = Notes() if notes is None else notes
    planner = _Planner(config, fingerprint, notes)
    planner.plan.source_state = source_state
    groups = read_groups(tables, config.engine.memory_bytes, needs_image=True, notes=notes)
    with tempfile.TemporaryDirectory(prefix="raycap-plan-") as folder:
        path = Path(folder) / "rejected.parquet"
        rejected = RowGroupWriter(path, schema.REJECTED)

        def write(part: tuple[int, bytes]) -> None:
            store.write(part_key(PLANNED_PARTS, part[0]), part[1])

        parts = _encoded(planner.rows(groups, rejected), config.engine.part_size)
        for _ in ordered_map(write, parts, config.storage.list_threads):
            pass
        rejected.close()
        plan = planner.plan
        if not plan.num_images:
            raise DatasetError(_describe_nothing(plan), uri=plan.fingerprint["source"])
        store.upload(PLANNED_REJECTIONS, path)
    plan.notes = [*notes.texts(), *planner.notes()]
    store.write(PLAN, encode_json(asdict(plan)))
    return plan


class _Planner:
    """Makes the rows of a plan from groups, and counts them."""

    def __init__(self, config: PrepareConfig, fingerprint: dict[str, Any], notes: Notes) -> None:
        self._notes = notes
        self.plan = DatasetPlan(fingerprint=fingerprint, part_size=config.engine.part_size)
        self._config = config
        self._limit = subset_limit(config.subset)
        self._images: Counter[str] = Counter()
        self._captions: Counter[str] = Counter()
        self._splits: set[str] = set()
        self._scripts: set[str] = set()
        self._num_mixed = 0

    def rows(self, groups: Iterable[Group], rejected: RowGroupWriter) -> Iterator[dict[str, Any]]:
        """Yield PLANNED rows, and write rejected ones to `rejected`."""
        plan = self.plan
        for group in groups:
            plan.num_source_images += group.num_images
            plan.num_source_captions += group.num_captions
            rank = rank_of(group.image_id)
            if rank >= self._limit:
                plan.num_images_not_in_subset += group.num_images
                plan.num_captions_not_in_subset += group.num_captions
                continue
            for rejection in group.rejections:
                self._count(rejection)
                if rejection.reason == RejectReason.DUPLICATE_ID and rejection.caption is None:
                    self._notes.add(_SAME_ID, example=rejection.image_id)
                rejected.write(rejected_row(rejection), len(rejection.caption or ""))
            if group.image is not None:
                yield self._row(group.image, rank)
        plan.rejected_images = dict(self._images)
        plan.rejected_captions = dict(self._captions)
        plan.splits = sorted(self._splits)

    def notes(self) -> list[str]:
        """Return what is notable about the captions."""
        if self._num_mixed < max(1, _MANY_MIXED * self.plan.num_images):
            return []
        return [
            f"{self._num_mixed:,} images have captions in several scripts "
            f"({', '.join(sorted(self._scripts))}); if these are translations, choose one by a "
            "table of captions, or with sidecar.lines=first"
        ]

    def _count(self, rejection: Rejection) -> None:
        counter = self._images if rejection.caption is None else self._captions
        counter[rejection.reason] += 1

    def _row(self, image: AnnotatedImage, rank: int) -> dict[str, Any]:
        if image.offset_bytes is not None and not self._config.embed.enabled:
            raise ConfigError(
                f"{redact(image.uri or '')}: images in tars and tables cannot be referenced; set "
                "embed.enabled=true",
                uri=image.uri,
            )
        if image.split is None and is_below_split_folder(image.image_id):
            self._notes.add(_DEEP_SPLIT, example=image.image_id)
        split = image.split or hashed_split(image.image_id, self._config.split)
        self._splits.add(split)
        scripts = {name for caption in image.captions if (name := script_of(caption))}
        if len(scripts) > 1:
            self._num_mixed += 1
            self._scripts |= scripts
        self.plan.num_images += 1
        self.plan.num_captions += len(image.captions)
        return {
            schema.IMAGE_ID: image.image_id,
            schema.SOURCE_ID: image.source_id,
            schema.URI: image.uri,
            schema.OFFSET_BYTES: image.offset_bytes,
            schema.SIZE_BYTES: image.size_bytes,
            schema.SPLIT: split,
            IS_GIVEN: image.split is not None,
            RANK: rank,
            schema.CAPTIONS_LIST: image.captions,
        }


def rejected_row(rejection: Rejection) -> dict[str, Any]:
    """Return a REJECTED row."""
    return {
        schema.IMAGE_ID: rejection.image_id,
        schema.URI: redact(rejection.uri) if rejection.uri is not None else None,
        schema.CAPTION: rejection.caption,
        schema.REASON: str(rejection.reason),
        schema.MESSAGE: None if rejection.message is None else redact_text(rejection.message),
    }


def _encoded(rows: Iterator[dict[str, Any]], part_size: int) -> Iterator[tuple[int, bytes]]:
    """Number and encode parts, in one thread: each thread would keep the memory that it used."""
    part: list[dict[str, Any]] = []
    number = 0
    for row in rows:
        part.append(row)
        if len(part) == part_size:
            yield number, encode_table(pa.Table.from_pylist(part, schema=PLANNED), PLANNED)
            part, number = [], number + 1
    if part:
        yield number, encode_table(pa.Table.from_pylist(part, schema=PLANNED), PLANNED)


def _describe_nothing(plan: DatasetPlan) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in plan.rejected_images.items())
    where = plan.fingerprint["source"]
    if plan.num_images_not_in_subset:
        reasons = f"{reasons}, " if reasons else ""
        reasons += f"{plan.num_images_not_in_subset} not in the subset"
    return f"{where}: no image with a caption ({reasons or 'nothing at all'}); " + (
        "give the folder of the images with --images"
        if "no_image" in reasons
        else "check the address"
    )
