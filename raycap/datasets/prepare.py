"""`raycap prepare`: plan, build the parts, unite duplicates, write the last files."""

import heapq
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.cluster.start import ray_cluster
from raycap.config import PrepareConfig, SidecarConfig, choose
from raycap.config.loading import override
from raycap.datasets.building import NUM_REJECTED, NUM_UNREACHED, BuildSpec, built_steps
from raycap.datasets.parts import (
    ANSWERED_PARTS,
    FIRST,
    LAST,
    NUM_CAPTIONS,
    NUM_IMAGES,
    PART_INDEX,
    PARTIAL_PARTS,
    RowGroupWriter,
    encode_table,
    read_part,
)
from raycap.datasets.planning import (
    PLANNED_REJECTIONS,
    DatasetPlan,
    read_plan,
    rejected_row,
    write_plan,
)
from raycap.datasets.readers import Annotations, open_annotations
from raycap.datasets.readers.image_folders import folder_address
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.datasets.splits import split_order
from raycap.datasets.survey import (
    count_lengths,
    count_megapixels,
    count_rejected,
    count_words,
    find_duplicates,
    find_leakage,
    load_answers,
    nothing_kept,
    part_rows,
    rejections,
    source_bytes,
    spread,
    write_moves,
)
from raycap.errors import DatasetError, RunConflict, RunStopped
from raycap.metrics.tokenizer import TOKENIZER
from raycap.progress import OnProgress, Progress, announce
from raycap.results.dataset import (
    DATASET,
    INDEX,
    REJECTED,
    WORK,
    DatasetRecord,
    Duplicates,
    SplitSummary,
    read_record,
    write_record,
)
from raycap.runs.opening import Claim, Run, open_run
from raycap.runs.records import now, versions
from raycap.scratch import scratch_database
from raycap.storage.base import KEY, Store
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store

Row = dict[str, Any]


def write_rejected(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Write `rejected.parquet`, sorted by image id: the row of an image, then its captions."""
    rows = heapq.merge(
        _planned_rejections(store),
        map(rejected_row, rejections(database)),
        key=lambda row: row[schema.IMAGE_ID],
    )
    with tempfile.TemporaryDirectory(prefix="raycap-rejected-") as folder:
        path = Path(folder) / "rejected.parquet"
        writer = RowGroupWriter(path, schema.REJECTED)
        for row in rows:
            writer.write(row, len(row[schema.CAPTION] or ""))
        writer.close()
        store.upload(REJECTED, path)


def _planned_rejections(store: Store) -> Iterator[Row]:
    num_bytes = store.size(PLANNED_REJECTIONS)
    for table in read_part(store, PLANNED_REJECTIONS, num_bytes, schema.REJECTED.names):
        yield from table.to_pylist()


def write_index(database: duckdb.DuckDBPyConnection, store: Store, plan: DatasetPlan) -> pa.Table:
    """Write `parts.parquet`, and return it.

    Raises:
        DatasetError: a part is missing.
    """
    sizes: dict[str, int] = {}
    for split in plan.splits:
        for page in store.list(f"{split}/"):
            names, num_bytes = page[KEY].to_pylist(), page[schema.SIZE_BYTES].to_pylist()
            sizes |= dict(zip(names, num_bytes, strict=True))
    rows = []
    for number, split, num_images, num_captions, first, last in part_rows(database):
        key = part_key(f"{split}/", number)
        if key not in sizes:
            raise DatasetError(
                f"{store.address(key)}: is missing; prepare the dataset again in a new output",
                uri=store.address(key),
            )
        rows.append(
            {
                KEY: key,
                schema.SPLIT: split,
                schema.PART: number,
                NUM_IMAGES: num_images,
                NUM_CAPTIONS: num_captions,
                schema.NUM_BYTES: sizes[key],
                FIRST: first,
                LAST: last,
            }
        )
    index = pa.Table.from_pylist(rows, schema=PART_INDEX)
    store.write(INDEX, encode_table(index, PART_INDEX))
    return index


def sum_up(
    database: duckdb.DuckDBPyConnection,
    plan: DatasetPlan,
    index: pa.Table,
    duplicates: Duplicates,
    config: PrepareConfig,
) -> DatasetRecord:
    """Make the record of a dataset whose parts are all built.

    Raises:
        DatasetError: an image or a caption of the source is not accounted for.
    """
    splits = _splits(index, count_lengths(database))
    unread = count_rejected(database)
    record = DatasetRecord(
        source=plan.fingerprint["source"],
        format=plan.fingerprint["format"],
        num_images=sum(split.num_images for split in splits.values()),
        num_captions=sum(split.num_captions for split in splits.values()),
        splits=splits,
        rejected_images=_by_name(plan.rejected_images, {c: n for c, (n, _) in unread.items()}),
        rejected_captions=_by_name(plan.rejected_captions, {c: n for c, (_, n) in unread.items()}),
        num_images_not_in_subset=plan.num_images_not_in_subset,
        num_captions_not_in_subset=plan.num_captions_not_in_subset,
        num_source_images=plan.num_source_images,
        num_source_captions=plan.num_source_captions,
        num_source_bytes=source_bytes(database),
        duplicates=duplicates,
        leakage=find_leakage(database),
        tokenizer=TOKENIZER,
        vocabulary_size=count_words(database),
        width_px=spread(database, schema.WIDTH_PX),
        height_px=spread(database, schema.HEIGHT_PX),
        megapixels=count_megapixels(database),
        config=config.model_dump(mode="json"),
        fingerprint=plan.fingerprint,
        versions=versions(),
        created_at=now(),
        notes=plan.notes,
        source_state=plan.source_state,
    )
    _check_sums(record)
    return record


def _by_name(*counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted((name, count) for part in counts for name, count in part.items()))


def _splits(index: pa.Table, lengths: dict[str, dict[int, int]]) -> dict[str, SplitSummary]:
    sums = index.group_by(schema.SPLIT).aggregate(
        [(name, "sum") for name in (NUM_IMAGES, NUM_CAPTIONS, schema.NUM_BYTES)]
    )
    found = {}
    for row in sorted(sums.to_pylist(), key=lambda row: split_order(row[schema.SPLIT])):
        histogram = lengths[row[schema.SPLIT]]
        num_tokens = sum(length * count for length, count in histogram.items())
        found[row[schema.SPLIT]] = SplitSummary(
            num_images=row[f"{NUM_IMAGES}_sum"],
            num_captions=row[f"{NUM_CAPTIONS}_sum"],
            num_bytes=row[f"{schema.NUM_BYTES}_sum"],
            mean_tokens=round(num_tokens / row[f"{NUM_CAPTIONS}_sum"], 4),
            lengths=histogram,
        )
    return found


def _check_sums(record: DatasetRecord) -> None:
    """Check that nothing was dropped silently."""
    images = (
        record.num_images + sum(record.rejected_images.values()) + record.num_images_not_in_subset
    )
    captions = (
        record.num_captions
        + sum(record.rejected_captions.values())
        + record.num_captions_not_in_subset
    )
    if (images, captions) != (record.num_source_images, record.num_source_captions):
        raise DatasetError(
            f"{record.source}: has {record.num_source_images} images and "
            f"{record.num_source_captions} captions, but {images} and {captions} are kept, "
            "rejected or not in the subset; this is a bug in raycap: please report it",
            uri=record.source,
        )


logger = logging.getLogger(__name__)

_HOPELESS_IMAGES = 1_024
"""Consecutive images that fail for a transient reason before a run ends."""


def prepare(  # noqa: PLR0913  the public call: all but two by keyword
    source: str | Path | Annotations,
    output: str | Path,
    *,
    format: AnnotationFormat | str | None = None,
    images: str | Path | None = None,
    subset: float | None = None,
    config: PrepareConfig | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> DatasetRecord:
    """Convert annotations and their images to a Parquet caption dataset.

    `raycap.prepare` also takes outputs of `raycap caption`, and describes the other arguments.

    Args:
        source: annotations, in a folder or bucket, or opened.
        output: a new folder or `s3://bucket/prefix`.
        format: format of the source; None: recognised.
        images: folder of the images, if not beside the annotations.
        subset: shorthand for the setting `subset`.
        config: all settings; None: the defaults.
        on_progress: called as images are done; never if there is nothing to do.
        debug: show the output of Ray and of the workers.

    Raises:
        RaycapError: as `raycap.prepare`.
    """
    config = override(config or PrepareConfig(), {"subset": subset})
    root = None if images is None else str(images)
    known = None if format is None else choose(AnnotationFormat, format, "format")
    annotations = (
        source
        if isinstance(source, Annotations)
        else open_annotations(
            str(source), config.storage, format=known, images=root, lines=config.sidecar.lines
        )
    )
    store = open_store(str(output), config.storage)
    claim = DatasetClaim(dataset_fingerprint(annotations, root, config), config)
    with open_run(store, claim) as run:
        store = run.store
        record = _finished(store)
        if record is None:
            plan = _plan(store, annotations, config, claim.fingerprint)
            building = _Invocation(run, plan, config, on_progress, debug=debug)
            record = building.complete()
        else:
            _check_unchanged(store, record, annotations)
            logger.info("nothing_to_do output=%s images=%d", store.uri, record.num_images)
        store.delete_all(WORK)
    return record


def dataset_fingerprint(
    annotations: Annotations, images: str | None, config: PrepareConfig
) -> dict[str, Any]:
    """Return what decides a dataset's content: two calls alike in this may share an output."""
    names = {"subset", "split", "embed", "image"}
    if config.sidecar != SidecarConfig():  # datasets of older versions do not have it
        names.add("sidecar")
    return {
        "source": annotations.source,
        "format": str(annotations.format),
        "images": None if images is None else folder_address(images, config.storage),
        **annotations.choices,
        **config.model_dump(mode="json", include=names),
    }


def _check_unchanged(store: Store, record: DatasetRecord, annotations: Annotations) -> None:
    """Raise RunConflict if the source of a complete dataset is not what it was."""
    if record.source_state and annotations.state() != record.source_state:
        raise RunConflict(
            f"{store.uri}: is complete, but {record.source} has changed since it was read "
            f"({record.created_at}); prepare it into a new output",
            uri=store.uri,
        )


class DatasetClaim(Claim):
    """A dataset's claim to its output; its record or its plan holds the fingerprint."""

    noun = "dataset"
    own_files = (WORK,)

    def find(self, store: Store) -> dict[str, Any] | None:
        """Return the fingerprint of the dataset, complete or planned; None where there is none."""
        holder = _finished(store) or read_plan(store)
        return None if holder is None else holder.fingerprint

    def create(self, store: Store) -> None:
        """Delete what an interrupted planning left; the plan will hold the fingerprint."""
        store.delete_all(WORK)

    def renew(self, store: Store) -> None:
        """Write nothing: the record holds the settings."""


def _finished(store: Store) -> DatasetRecord | None:
    """Read the record of a complete dataset; None where the dataset is not complete."""
    return read_record(store) if store.exists(DATASET) else None


def _plan(
    store: Store, annotations: Annotations, config: PrepareConfig, fingerprint: dict[str, Any]
) -> DatasetPlan:
    """Read the plan of an unfinished dataset, or write one."""
    plan = read_plan(store)
    if plan is not None:
        for folder in (*(f"{split}/" for split in plan.splits), ANSWERED_PARTS, PARTIAL_PARTS):
            store.remove_leftovers(folder)
        if plan.source_state and annotations.state() != plan.source_state:
            logger.warning(
                "source_changed source=%s: the dataset will be that of its first invocation",
                annotations.source,
            )
    else:
        try:
            announce("reading annotations")
            plan = write_plan(
                store,
                annotations.tables,
                config,
                fingerprint,
                source_state=annotations.state(),
                notes=annotations.notes,
            )
        except BaseException:
            store.delete_all(WORK)
            raise
    logger.info(
        "planned images=%d captions=%d parts=%d rejected=%d",
        plan.num_images,
        plan.num_captions,
        plan.num_parts,
        sum(plan.rejected_images.values()) + sum(plan.rejected_captions.values()),
    )
    return plan


class _Invocation:
    """One invocation for a dataset that is not complete."""

    def __init__(
        self,
        run: Run,
        plan: DatasetPlan,
        config: PrepareConfig,
        on_progress: OnProgress | None,
        *,
        debug: bool,
    ) -> None:
        self._run = run
        self._store = run.store
        self._lock = run.lock
        self._plan = plan
        self._config = config
        self._on_progress = on_progress or (lambda _: None)
        self._debug = debug
        self._num_done = 0
        self._num_rejected = 0
        self._num_unreached = 0
        self._unreached = ""
        self._started = 0.0

    def complete(self) -> DatasetRecord:
        """Build what is missing, unite duplicates, and write the last files."""
        self._run.describe_stop = self.describe_stop
        answered = set(list_parts(self._store, ANSWERED_PARTS))
        pending = [number for number in range(self._plan.num_parts) if number not in answered]
        self._num_done = sum(map(self._plan.images_of, answered))
        if pending:
            self._build(pending)
        if self._num_unreached:
            raise RunStopped(self._describe_unreached())
        with scratch_database(self._config.engine.memory_bytes) as database:
            threads = self._config.storage.list_threads
            load_answers(database, self._store, self._plan, threads)
            if reason := nothing_kept(database):
                self._store.delete_all(WORK)  # the output may be given again, with --images
                raise DatasetError(f"{self._plan.fingerprint['source']}: {reason}")
            return self._finish(database)

    def describe_stop(self) -> str:
        """Describe the progress of a stopped run, and how to continue it."""
        return (
            f"stopped with {self._num_done:,} of {self._plan.num_images:,} images done in "
            f"{self._store.uri}; run the same command to continue"
        )

    def _build(self, numbers: list[int]) -> None:
        logger.info("build_started parts=%d of=%d", len(numbers), self._plan.num_parts)
        num_before, in_a_row = self._num_done, 0
        for step in self._steps(numbers, is_moving=False):
            count = self._count(step)
            in_a_row = in_a_row + count if count == step[NUM_UNREACHED][0].as_py() else 0
            if in_a_row >= _HOPELESS_IMAGES:
                break
            num_new = self._num_done - num_before
            self._on_progress(
                Progress(
                    num_done=self._num_done,
                    num_total=self._plan.num_images,
                    num_failed=self._num_rejected,
                    images_per_s=num_new / (time.monotonic() - self._started),
                )
            )

    def _count(self, step: pa.Table) -> int:
        """Count a step in; return its number of images."""
        row = step.to_pylist()[0]
        num_images, num_unreached = row[NUM_IMAGES], row[NUM_UNREACHED]
        # Steps that Ray repeats after the loss of a machine are reported twice.
        left = self._plan.num_images - self._num_done
        self._num_done += min(left, num_images - num_unreached)
        self._num_rejected += row[NUM_REJECTED]
        self._num_unreached += num_unreached
        self._unreached = self._unreached or row[schema.ERROR_MESSAGE] or ""
        return int(num_images)

    def _finish(self, database: duckdb.DuckDBPyConnection) -> DatasetRecord:
        duplicates = find_duplicates(database)
        moving = write_moves(database, self._store)
        if moving:
            logger.info("duplicates_united images=%d parts=%d", duplicates.num_moved, len(moving))
            for _ in self._steps(moving, is_moving=True):
                pass
        write_rejected(database, self._store)
        index = write_index(database, self._store, self._plan)
        record = sum_up(database, self._plan, index, duplicates, self._config)
        self._run.finish(write_record, record)
        return record

    def _steps(self, numbers: list[int], *, is_moving: bool) -> Iterator[pa.Table]:
        spec = BuildSpec(
            output=self._store.uri,
            config=self._config,
            is_moving=is_moving,
            debug=self._debug,
            lock_token=self._lock.token,
        )
        with ray_cluster(debug=self._debug):
            self._started = time.monotonic()
            for step in built_steps(numbers, spec):
                self._lock.check()
                yield step

    def _describe_unreached(self) -> str:
        return (
            f"{self._num_unreached:,} images failed for a transient reason ({self._unreached}); "
            f"{self._num_done:,} of {self._plan.num_images:,} are done in {self._store.uri}: run "
            "the same command to fetch the others"
        )
