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

from pydantic import TypeAdapter

from raycap.config import StorageConfig
from raycap.errors import ObjectNotFound, StorageError
from raycap.progress import Progress
from raycap.results.captioning import PROGRESS, Beat, OutputStatus, is_complete, read_run
from raycap.runs.records import encode_json, now, read_as
from raycap.storage.base import Store
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)

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
        self._thread = Thread(target=self._beat, daemon=True, name="raycap-progress")

    def __enter__(self) -> "Heartbeat":
        self._write(is_stopped=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._write(is_stopped=True)

    def note(self, progress: Progress) -> None:
        """Update the progress to be written next."""
        self._progress = progress

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._write(is_stopped=False)

    def _write(self, *, is_stopped: bool) -> None:
        found = self._progress
        beat = Beat(
            num_done=found.num_done,
            num_total=found.num_total,
            num_failed=found.num_failed,
            images_per_s=round(found.images_per_s, 2),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            beat_at=now(),
            is_stopped=is_stopped,
        )
        try:
            self._store.write(PROGRESS, encode_json(asdict(beat)))
        except StorageError as error:
            # Not fatal: the parts, not this file, record what is committed.
            logger.warning("progress_not_written error=%s", error)


def read_status(output: str | Path, *, storage: StorageConfig | None = None) -> OutputStatus:
    """Read the progress of a run from its output.

    Raises:
        DatasetError: it is not an output of raycap, or `progress.json` is damaged.
        StorageError: it cannot be read.
    """
    store = open_store(str(output), storage or StorageConfig())
    read_run(store)
    try:
        remedy = "delete the file: a run writes it again"
        beat: Beat | None = read_as(TypeAdapter(Beat), store, PROGRESS, remedy)
    except ObjectNotFound:
        beat = None
    age_s = None if beat is None else _seconds_since(beat.beat_at)
    return OutputStatus(state=_state(store, beat, age_s), beat=beat, age_s=age_s)


def _state(store: Store, beat: Beat | None, age_s: float | None) -> str:
    if is_complete(store):
        return "complete"
    if beat is None or age_s is None:
        return "starting"
    if beat.is_stopped:
        return "stopped"
    return "silent" if age_s > SILENT_AFTER_S else "running"


def _seconds_since(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
