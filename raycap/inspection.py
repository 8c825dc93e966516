"""`raycap status` and `raycap verify` of any output: what it is, how far, and whether complete.

Reads only the records in the output: neither Ray nor a model is needed. Outputs of `raycap caption`
are left to `captioning.status` and `captioning.verify`.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from raycap.captioning.status import read_status
from raycap.captioning.verify import verify as verify_captions
from raycap.config import StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.errors import DatasetError, ObjectNotFound
from raycap.models.folders import KIND_FILE, WEIGHT_FILE, WEIGHT_INDEX_FILE
from raycap.parsing import parse_json
from raycap.results.calibration import CALIBRATION, TRIALS, read_calibration
from raycap.results.captioning import OutputStatus, Verification
from raycap.results.dataset import DATASET, PLAN, is_dataset, read_record
from raycap.results.evaluation import EVALUATION, read_evaluation
from raycap.results.outputs import Completeness, OutputKind, State, WorkStatus
from raycap.results.search import read_search
from raycap.results.status import Status
from raycap.results.study import REPORT, read_study
from raycap.results.training import HISTORY, TRAINING, read_history, read_training
from raycap.runs.records import CONFIG, LOCK, RUN, read_json
from raycap.storage.address import Address, check_exists
from raycap.storage.base import Store
from raycap.storage.lock import describe, process_table
from raycap.storage.stores import open_store

_MODEL = "model/"
_COMMANDS = {"tune": OutputKind.SEARCH, "study": OutputKind.STUDY}
_BY_FILE = {
    CALIBRATION: OutputKind.CALIBRATION,
    TRIALS: OutputKind.CALIBRATION,
    DATASET: OutputKind.DATASET,
    PLAN: OutputKind.DATASET,
    EVALUATION: OutputKind.EVALUATION,
}
"""Files that identify an output without `run.json`."""


def status(
    output: str | Path, *, storage: StorageConfig | None = None
) -> OutputStatus | WorkStatus:
    """Read the state of an output, and how far its work is.

    Args:
        output: the output of any command: a folder or `s3://bucket/prefix`.
        storage: how stores are accessed; None for the defaults.

    Returns:
        OutputStatus for an output of `raycap caption`, WorkStatus for any other.

    Raises:
        ConfigError: the address is wrong, or there is nothing at the path.
        DatasetError: it is not an output of raycap, or a record is damaged.
        StorageError: it cannot be read.
    """
    store = open_store(str(output), storage or StorageConfig())
    kind = find_kind(store)
    if kind is OutputKind.CAPTIONS:
        return read_status(output, storage=storage)
    return _inspect(store, kind).status


def verify(
    output: str | Path, *, storage: StorageConfig | None = None
) -> Verification | Completeness:
    """Check that an output is complete.

    Args:
        output: the output of any command: a folder or `s3://bucket/prefix`.
        storage: how stores are accessed; None for the defaults.

    Returns:
        Verification for an output of `raycap caption`: its rows are compared with its manifest.
        Completeness for any other: its records are compared with each other and with the files
        that they name.

    Raises:
        ConfigError: the address is wrong, or there is nothing at the path.
        DatasetError: it is not an output of raycap, or a record is damaged.
        StorageError: it cannot be read.
    """
    store = open_store(str(output), storage or StorageConfig())
    kind = find_kind(store)
    if kind is OutputKind.CAPTIONS:
        return verify_captions(output, storage=storage)
    return _inspect(store, kind, config=storage or StorageConfig())


def find_kind(store: Store) -> OutputKind:
    """Return what an output is.

    Raises:
        ConfigError: there is nothing at the path.
        DatasetError: it is not an output of raycap.
    """
    try:
        fingerprint = read_json(store, RUN).get("fingerprint", {})
    except ObjectNotFound:
        for name, kind in _BY_FILE.items():
            if store.exists(name):
                return kind
        check_exists(store.uri)
        raise DatasetError(
            f"{store.uri}: is not an output of raycap (it has no {RUN}, {DATASET}, {EVALUATION} or "
            f"{CALIBRATION}); give the folder or bucket prefix that a raycap command wrote to",
            uri=store.uri,
        ) from None
    if not isinstance(fingerprint, dict):
        raise DatasetError(
            f"{store.address(RUN)}: its fingerprint is not a JSON object", uri=store.address(RUN)
        )
    training = OutputKind.TRAINING if "kind" in fingerprint else OutputKind.CAPTIONS
    return _COMMANDS.get(str(fingerprint.get("command")), training)


@dataclass(kw_only=True)
class _Found:
    """What the records of an output say."""

    unit: str
    is_ended: bool = False
    num_done: int = 0
    num_total: int | None = None
    num_failed: int = 0
    best: str = ""
    problems: list[str] = field(default_factory=list)

    def require(self, store: Store, *keys: str) -> None:
        """Note the files of a complete output that are missing."""
        for key in keys:
            if not store.exists(key):
                self.problems.append(f"{store.address(key)}: is missing")

    def require_model(self, store: Store, prefix: str) -> None:
        """Note a model that a complete output lacks, or lacks the weights of."""
        self.require(store, f"{prefix}{KIND_FILE}")
        if not store.exists(f"{prefix}{WEIGHT_INDEX_FILE}"):
            self.require(store, f"{prefix}{WEIGHT_FILE}")


def _inspect(store: Store, kind: OutputKind, config: StorageConfig | None = None) -> Completeness:
    """Read an output; with settings, also what takes more than a few requests."""
    found = _READERS[kind](store)
    if config is not None and kind is OutputKind.DATASET and found.is_ended:
        found.problems += _dataset_problems(store, config)
    state = State.COMPLETE if found.is_ended else _state_of_lock(store)
    return Completeness(
        status=WorkStatus(
            kind=kind,
            output=store.uri,
            state=state,
            unit=found.unit,
            num_done=found.num_done,
            num_total=found.num_total,
            num_failed=found.num_failed,
            best=found.best,
        ),
        problems=found.problems,
    )


def _training(store: Store) -> _Found:
    found = _Found(unit="epochs", num_total=_setting(store, "train", "num_epochs"))
    with suppress(ObjectNotFound):
        found.num_done = len(read_history(store.read(HISTORY)))
    training = read_training(store)
    if training is not None:
        found.is_ended = True
        metric = training.metric
        found.best = f"epoch {training.best.epoch}: {metric} {training.best.value(metric):.3f}"
        found.require_model(store, _MODEL)
        if found.num_done != len(training.history):
            found.problems.append(
                f"{store.address(HISTORY)}: has {found.num_done} epochs, but {TRAINING} has "
                f"{len(training.history)}"
            )
    return found


def _search(store: Store) -> _Found:
    search = read_search(store)
    if search is None:
        return _Found(unit="trials")
    num_open = search.count(Status.RUNNING) + search.count(Status.WAITING)
    found = _Found(
        unit="trials",
        is_ended=bool(search.end),
        num_done=len(search.trials) - num_open,
        num_total=search.num_planned,
        num_failed=search.count(Status.FAILED),
    )
    best = search.best_trial
    if best is not None:
        found.best = f"{best.name}: {search.metric} {best.value:.3f}"
    if found.is_ended:
        found.require(store, "best.yaml", "trials.parquet")
        found.require_model(store, _MODEL)
        ended = (trial for trial in search.trials if trial.status is not Status.RUNNING)
        found.require(store, *(f"trials/{trial.name}/trial.json" for trial in ended))
    return found


def _study(store: Store) -> _Found:
    try:
        study = read_study(store)
    except ObjectNotFound:
        return _Found(unit="systems")
    found = _Found(
        unit="systems",
        is_ended=bool(study.end),
        num_done=study.count(Status.FINISHED) + study.count(Status.FAILED),
        num_total=len(study.systems),
        num_failed=study.count(Status.FAILED),
        best=study.best or "",
    )
    if found.is_ended:
        found.require(store, REPORT)
        ended = (it for it in study.systems if it.status in (Status.FINISHED, Status.FAILED))
        found.require(store, *(f"systems/{system.name}/system.json" for system in ended))
    return found


def _calibration(store: Store) -> _Found:
    try:
        calibration = read_calibration(store)
    except ObjectNotFound:
        return _Found(unit="settings", num_done=_num_tried(store))
    chosen = calibration.chosen
    found = _Found(
        unit="settings",
        is_ended=True,
        num_done=len(calibration.trials),
        num_total=len(calibration.trials),
        best=f"length gap {chosen.length_gap:+.2f}, cider_d {chosen.cider_d:.3f}",
    )
    found.require_model(store, "")
    return found


def _num_tried(store: Store) -> int:
    try:
        lines = store.read(TRIALS).splitlines()
    except ObjectNotFound:
        return 0
    return sum(line.startswith(b'{"trial":') for line in lines)


def _dataset(store: Store) -> _Found:
    if is_dataset(store) and not store.exists(DATASET):
        return _Found(unit="images")
    record = read_record(store)
    return _Found(
        unit="images", is_ended=True, num_done=record.num_images, num_total=record.num_images
    )


def _dataset_problems(store: Store, config: StorageConfig) -> Iterator[str]:
    """Compare the parts of a dataset with its record."""
    try:
        dataset = open_dataset(store.uri, config)
    except (DatasetError, ObjectNotFound) as error:
        yield str(error)
        return
    num_indexed = 0
    for row in dataset.index.to_pylist():
        num_indexed += row["num_images"]
        key = row["key"]
        with suppress(ObjectNotFound):
            if store.size(key) == row["num_bytes"]:
                continue
        yield f"{store.address(key)}: is missing, or not of the size that the dataset records"
    if num_indexed != dataset.record.num_images:
        yield f"{store.uri}: its parts have {num_indexed:,} of {dataset.record.num_images:,} images"


def _evaluation(store: Store) -> _Found:
    evaluation = read_evaluation(store)
    found = _Found(
        unit="images",
        is_ended=True,
        num_done=evaluation.num_images,
        num_total=evaluation.num_images,
    )
    found.require(store, *(system.scores for system in evaluation.systems if system.scores))
    return found


_READERS: dict[OutputKind, Callable[[Store], _Found]] = {
    OutputKind.TRAINING: _training,
    OutputKind.SEARCH: _search,
    OutputKind.STUDY: _study,
    OutputKind.CALIBRATION: _calibration,
    OutputKind.DATASET: _dataset,
    OutputKind.EVALUATION: _evaluation,
}


def _setting(store: Store, section: str, name: str) -> int | None:
    """Return a whole number of the settings of the last invocation; None if unknown."""
    try:
        value = read_json(store, CONFIG)[section][name]
    except (ObjectNotFound, DatasetError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def _state_of_lock(store: Store) -> State:
    """Return whether a process that is seen from here holds the lock of an unfinished output.

    The lock itself is not touched: to try it would refuse a run that starts at this moment.
    """
    if not store.exists(LOCK):
        return State.STOPPED
    if not Address.parse(store.uri).is_local:
        # Its holder marks it as released, but not if it was killed.
        is_released = bool(describe(store.read(LOCK)).get("released"))
        return State.STOPPED if is_released else State.UNKNOWN
    path = store.address(LOCK)
    try:
        holder: dict[str, Any] = parse_json(Path(path).read_bytes())
        host, pid = holder["host"], int(holder["pid"])
        # Containers of one machine may share its host name, and number their processes apart.
        table = process_table()
        if host != socket.gethostname() or table is None or holder.get("processes") != table:
            return State.UNKNOWN
        # A process that began after the lock was written has only got the number of its holder.
        began, written = psutil.Process(pid).create_time(), os.stat(path).st_mtime
    except psutil.Error:
        return State.STOPPED
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return State.STOPPED if os.path.getsize(path) == 0 else State.UNKNOWN
    return State.RUNNING if began <= written + 1.0 else State.STOPPED
