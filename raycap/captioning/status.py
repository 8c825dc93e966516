"""Progress of a run in its output: a heartbeat writes `progress.json` every few seconds.

It shows the progress of a run on a cluster from any machine that can read the output, without Ray
and without listing a million parts.
"""

import logging
import os
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pydantic import TypeAdapter

from raycap.captioning.parts import CAPTIONS
from raycap.config import StorageConfig
from raycap.edits.history import History
from raycap.edits.log import EditLog
from raycap.errors import DatasetError, RunConflict, StorageError
from raycap.progress import Progress, Spent
from raycap.results.captioning import (
    PROGRESS,
    Beat,
    OutputStatus,
    PlanRecord,
    is_complete,
    read_caption_run,
    read_plan_record,
    read_skipped,
)
from raycap.runs.records import encode_json, now, read_if_any
from raycap.storage.base import Store
from raycap.storage.parts import list_parts
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)

_BEAT_FORM = TypeAdapter(Beat)
_REMEDY = "delete the file: a run writes it again"

BEAT_S = 5.0
"""Seconds between two heartbeats."""
SILENT_AFTER_S = 90.0
"""Without a heartbeat for this many seconds, a run has died or cannot reach its output."""


class Heartbeat:
    """Context manager that writes the latest progress periodically, in a separate thread."""

    def __init__(self, store: Store, first: Progress) -> None:
        self._store = store
        self._progress = first
        self._started_at = now()
        self._ended = Event()
        self._is_lost = False
        self._thread = Thread(target=self._beat, daemon=True, name="raycap-progress")

    def __enter__(self) -> "Heartbeat":
        self._write(is_stopped=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self._is_lost:
            self._write(is_stopped=True)

    @property
    def spent(self) -> Spent | None:
        """What the run has spent at endpoints, by its latest progress."""
        return self._progress.spent

    def note(self, progress: Progress) -> None:
        """Update the progress to be written next."""
        self._progress = progress

    def _beat(self) -> None:
        while not self._is_lost and not self._ended.wait(BEAT_S):
            self._write(is_stopped=False)

    def _write(self, *, is_stopped: bool) -> None:
        found = self._progress
        beat = Beat(
            num_done=found.num_done,
            num_total=found.num_total,
            num_failed=found.num_failed,
            num_copies=found.num_copies,
            images_per_s=round(found.images_per_s, 2),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            beat_at=now(),
            is_stopped=is_stopped,
            flagged=dict(found.flagged),
            spent=found.spent,
        )
        try:
            self._store.write(PROGRESS, encode_json(asdict(beat)))
        except RunConflict:
            self._is_lost = True  # the file is its successor's; the committer ends the run
        except StorageError as error:
            # Not fatal: the parts, not this file, record what is committed.
            logger.warning("progress_not_written error=%s", error)


def read_spent(store: Store) -> Spent | None:
    """Return what earlier invocations of the output's run have spent; None if nothing is known."""
    beat = read_if_any(_BEAT_FORM, store, PROGRESS, _REMEDY)
    return None if beat is None else beat.spent


def read_status(output: str | Path, *, storage: StorageConfig | None = None) -> OutputStatus:
    """Read the progress of a run from its output.

    Raises:
        DatasetError: it is not an output of `raycap caption`, or a record in it is damaged.
        StorageError: it cannot be read.
    """
    config = storage or StorageConfig()
    store = open_store(str(output), config)
    run = read_caption_run(store)
    beat = read_if_any(_BEAT_FORM, store, PROGRESS, _REMEDY)
    age_s = _age_of(run) if beat is None else _seconds_since(store, beat)
    plan = read_plan_record(store)
    return OutputStatus(
        state=_state(store, beat, age_s, plan),
        beat=beat,
        age_s=None if beat is None else age_s,
        num_gone=0 if plan is None else plan.num_gone,
        skipped=read_skipped(store),
        edits=count_reviews(store, config),
    )


def count_reviews(store: Store, config: StorageConfig) -> dict[str, int]:
    """Count the captions of an output by what reviewers have made of them.

    Raises:
        DatasetError: a file of the edits is missing or damaged.
        StorageError: it cannot be read.
    """
    reviews = History(EditLog(store, config.list_threads).read_new()).counts()
    return {str(review): reviews[review] for review in sorted(reviews)}


def _state(store: Store, beat: Beat | None, age_s: float, plan: PlanRecord | None) -> str:
    if is_complete(store):
        return "complete"
    is_over = beat is not None and beat.is_stopped
    if (is_over or age_s > SILENT_AFTER_S) and _has_all_rows(store, beat, plan):
        return "unfinished"
    if is_over:
        return "stopped"
    if age_s > SILENT_AFTER_S:
        return "silent"
    return "running" if beat is not None and beat.num_total else "starting"


def _has_all_rows(store: Store, beat: Beat | None, plan: PlanRecord | None) -> bool:
    """Whether every part is committed; they are listed only if it is likely."""
    if plan is None or beat is None or not 0 < beat.num_total <= beat.num_done:
        return False
    parts = set(range(plan.num_parts)) - set(plan.absent)
    return parts <= set(list_parts(store, CAPTIONS))


def _age_of(run: dict[str, Any]) -> float:
    """Return the seconds since a run was claimed; 0 if it does not say when."""
    try:
        return _seconds(run["created_at"])
    except (KeyError, TypeError, ValueError):
        return 0.0


def _seconds_since(store: Store, beat: Beat) -> float:
    try:
        return _seconds(beat.beat_at)
    except ValueError as error:
        raise DatasetError(
            f"{store.address(PROGRESS)}: is damaged (beat_at: {beat.beat_at[:50]!r}); {_REMEDY}",
            uri=store.address(PROGRESS),
        ) from error


def _seconds(at: str) -> float:
    """Return the seconds since a time, which is in UTC where it names no zone."""
    time = datetime.fromisoformat(at)
    time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (datetime.now(UTC) - time).total_seconds()
