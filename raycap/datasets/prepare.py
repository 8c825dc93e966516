"""`raycap prepare` from end to end: plan, build the parts, unite duplicates, sum up."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raycap import schema
from raycap.cluster import ray_cluster
from raycap.config import PrepareConfig
from raycap.datasets.annotations import AnnotationFormat, Annotations, open_annotations
from raycap.datasets.building import NUM_REJECTED, NUM_UNREACHED, BuildSpec
from raycap.datasets.finishing import sum_up, write_index, write_rejected
from raycap.datasets.imagefolders import folder_address
from raycap.datasets.parts import (
    ANSWERED_PARTS,
    NUM_IMAGES,
    PARTIAL_PARTS,
    list_parts,
)
from raycap.datasets.planning import Plan, read_plan, write_plan
from raycap.datasets.record import (
    DATASET,
    LOCK,
    WORK,
    DatasetRecord,
    read_record,
    write_record,
)
from raycap.datasets.stream import built_steps
from raycap.datasets.survey import find_duplicates, load_answers, nothing_kept, write_moves
from raycap.errors import ConfigError, DatasetError, ObjectNotFound, RunConflict, RunStopped
from raycap.records import difference
from raycap.scratch import scratch_database
from raycap.status import OnProgress, Progress
from raycap.storage.base import KEY, Store, WriteLock
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)

_HOPELESS_IMAGES = 1_024
"""So many images in a row that cannot be reached end a run."""


def prepare(  # noqa: PLR0913  the public call: all but two by keyword
    source: str | Path,
    output: str | Path,
    *,
    format: AnnotationFormat | None = None,
    images: str | Path | None = None,
    config: PrepareConfig | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> DatasetRecord:
    """Turn annotations and their images into a Parquet caption dataset.

    The same call continues a run that was interrupted, with the annotations as they were when it
    began, and has nothing to do where the dataset is complete. Images that cannot be fetched for
    a passing reason (network, throttled, timed out) are not rejected: everything else is built,
    then the run stops, and the same call fetches just these.

    Args:
        source: annotations, in a folder or bucket.
        output: a new folder or `s3://bucket/prefix`.
        format: what the source is; recognised where it is None.
        images: where the images are, if not beside the annotations.
        config: all settings; defaults where it is None.
        on_progress: called as images are done; never if there is nothing to do.
        debug: show Ray's and the workers' own output.

    Returns:
        The record, as written to `dataset.json`.

    Raises:
        ConfigError: a setting, the source or the output is wrong.
        DatasetError: the annotations are not what they should be.
        RunConflict: the output is another dataset, or is being written.
        RunStopped: the run was interrupted, or some images could not be reached for now.
        StorageError: a store refuses.
    """
    config = config or PrepareConfig()
    root = None if images is None else str(images)
    annotations = open_annotations(str(source), config.storage, format=format, images=root)
    store = open_store(str(output), config.storage)
    mark = fingerprint(annotations, root, config)
    with store.lock(LOCK) as lock:
        record = _finished(store, mark)
        if record is None:
            plan = _plan(store, annotations, config, mark)
            run = _Run(store, lock, plan, config, on_progress or (lambda _: None), debug=debug)
            with _stoppable(run):
                record = run.complete()
        store.delete_all(WORK)
    return record


def fingerprint(
    annotations: Annotations, images: str | None, config: PrepareConfig
) -> dict[str, Any]:
    """Say what decides a dataset's content: two calls alike in this may share an output."""
    names = {"subset", "split", "embed", "image"}
    return {
        "source": annotations.source,
        "format": str(annotations.format),
        "images": None if images is None else folder_address(images, config.storage),
        **config.model_dump(mode="json", include=names),
    }


def _finished(store: Store, mark: dict[str, Any]) -> DatasetRecord | None:
    """Read the record of a complete dataset, if it is this one; None where there is none."""
    try:
        store.read_tail(DATASET, 1)
    except ObjectNotFound:
        return None
    record = read_record(store)
    _check_fingerprint(store, record.fingerprint, mark)
    logger.info("nothing_to_do output=%s images=%d", store.uri, record.num_images)
    return record


def _check_fingerprint(store: Store, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if theirs != ours:
        raise RunConflict(
            f"{store.uri}: is another dataset; give another output, or the settings of that one "
            f"(- that one, + this one):\n{difference(theirs, ours)}"
        )


def _plan(
    store: Store, annotations: Annotations, config: PrepareConfig, mark: dict[str, Any]
) -> Plan:
    plan = read_plan(store)
    if plan is not None:
        _check_fingerprint(store, plan.fingerprint, mark)
        for folder in (*(f"{split}/" for split in plan.splits), ANSWERED_PARTS, PARTIAL_PARTS):
            store.remove_leftovers(folder)
    else:
        _check_empty(store)
        store.delete_all(WORK)
        try:
            plan = write_plan(store, annotations.tables, config, mark)
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


def _check_empty(store: Store) -> None:
    """Refuse to mix a dataset with other files: a folder of images given as output, say."""
    store.remove_leftovers("")
    for page in store.list():
        for key in page[KEY].to_pylist():
            if key != LOCK and not key.startswith(WORK):
                raise ConfigError(
                    f"{store.uri}: holds other files ({key}); give a new folder as output"
                )


class _Run:
    """One invocation on a dataset that is not complete."""

    def __init__(
        self,
        store: Store,
        lock: WriteLock,
        plan: Plan,
        config: PrepareConfig,
        on_progress: OnProgress,
        *,
        debug: bool,
    ) -> None:
        self._store = store
        self._lock = lock
        self._plan = plan
        self._config = config
        self._on_progress = on_progress
        self._debug = debug
        self._num_done = 0
        self._num_rejected = 0
        self._num_unreached = 0
        self._unreached = ""
        self._started = 0.0

    def complete(self) -> DatasetRecord:
        """Build what is missing, unite duplicates, and write the last files."""
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
        """Say how far a stopped run came, and how to continue it."""
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
        # What Ray repeats after a machine is lost is told twice.
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
        self._lock.check()
        write_record(self._store, record)
        return record

    def _steps(self, numbers: list[int], *, is_moving: bool) -> Iterator[pa.Table]:
        spec = BuildSpec(
            output=self._store.uri, config=self._config, is_moving=is_moving, debug=self._debug
        )
        with ray_cluster(debug=self._debug):
            self._started = time.monotonic()
            for step in built_steps(numbers, spec):
                self._lock.check()
                yield step

    def _describe_unreached(self) -> str:
        return (
            f"{self._num_unreached:,} images could not be fetched for now ({self._unreached}); "
            f"{self._num_done:,} of {self._plan.num_images:,} are done in {self._store.uri}: run "
            "the same command to fetch the others"
        )


@contextmanager
def _stoppable(run: _Run) -> Iterator[None]:
    """Turn Ctrl-C (and SIGTERM, where the caller makes it one) into a clean stop."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunStopped(run.describe_stop()) from None
