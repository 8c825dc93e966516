"""How far a run is can be read from its output alone, at every stage of its life."""

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raycap.captioning import status as heartbeat
from raycap.captioning.parts import CAPTIONS
from raycap.captioning.status import Heartbeat, read_status
from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.progress import Progress
from raycap.results.captioning import (
    PROGRESS,
    PlanRecord,
    Summary,
    write_plan_record,
    write_summary,
)
from raycap.results.shown.captioning import status_rows
from raycap.storage.base import Store
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

SUMMARY = Summary(
    output="out",
    source="photos",
    num_images=100,
    num_ok=98,
    num_failed=2,
    mean_words=3.0,
    num_bytes=1,
    num_captioned=100,
    wall_s=1.0,
    images_per_s=100.0,
)
HALF = Progress(num_done=50, num_total=100, num_failed=2, images_per_s=12.345)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = open_store(str(tmp_path / "out"), StorageConfig())
    found.write("run.json", b"{}")
    return found


def shown(store: Store) -> dict[str, str]:
    return dict(status_rows(read_status(store.uri)))


def age(store: Store, seconds: float) -> None:
    """Put the last beat back in time."""
    beat: dict[str, Any] = json.loads(store.read(PROGRESS))
    beat["beat_at"] = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    store.write(PROGRESS, json.dumps(beat).encode())


def test_a_run_is_starting_running_and_stopped(store: Store) -> None:
    assert read_status(store.uri).state == "starting"
    assert shown(store)["state"].startswith("starting:")
    with Heartbeat(store, HALF):
        rows = shown(store)
        assert rows["state"] == "running"
        assert rows["done"] == "50 (50.0%)"
        assert (rows["failed"], rows["rate"], rows["ETA"]) == ("2", "12.35 images/s", "4.0 s")
        assert rows["last heartbeat"].endswith(f"pid {os.getpid()}")
    status = read_status(store.uri)
    assert status.state == "stopped"
    assert "ETA" not in shown(store)
    write_summary(store, SUMMARY)
    assert read_status(store.uri).state == "complete"


def test_a_run_that_died_is_silent_after_a_while(store: Store) -> None:
    with Heartbeat(store, HALF):
        age(store, 60)
        assert read_status(store.uri).state == "running"
        age(store, 120)
        status = read_status(store.uri)
        assert status.state == "silent"
        assert status.age_s == pytest.approx(120, abs=5)
        assert "2.0 min ago" in shown(store)["last heartbeat"]


def test_it_beats_by_itself_with_what_it_was_last_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    with Heartbeat(store, HALF) as beating:
        beating.note(replace(HALF, num_done=99))
        deadline = time.monotonic() + 10
        while (beat := read_status(store.uri).beat) is None or beat.num_done != 99:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_output_that_cannot_be_written_costs_the_beats_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(store.uri)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    with Heartbeat(store, HALF):
        (folder / PROGRESS).unlink(missing_ok=True)
        (folder / PROGRESS).mkdir()  # no file can be put there
        time.sleep(0.3)
    assert "progress_not_written" in caplog.text


def test_what_is_no_output_and_what_is_damaged_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_status(tmp_path / "nowhere")
    assert refused.value.uri == str(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"run\.json") as caught:
        read_status(tmp_path)
    assert caught.value.uri == str(tmp_path)
    store.write(PROGRESS, b'{"num_done": "many"}')
    with pytest.raises(DatasetError) as caught:
        read_status(store.uri)
    assert caught.value.uri == store.address(PROGRESS)


def test_a_run_that_died_before_it_had_listed_anything_is_not_starting_for_ever(
    store: Store,
) -> None:
    claimed = datetime.now(UTC) - timedelta(seconds=120)
    store.write("run.json", json.dumps({"created_at": claimed.isoformat()}).encode())
    assert read_status(store.uri).state == "silent"
    with Heartbeat(store, replace(HALF, num_total=0, num_done=0)):
        assert read_status(store.uri).state == "starting"
        age(store, 120)
        assert read_status(store.uri).state == "silent"
    assert read_status(store.uri).state == "stopped"


def test_a_run_that_ended_before_its_summary_has_all_rows(store: Store) -> None:
    write_plan_record(store, PlanRecord(run="x", num_parts=2, num_images=100, num_gone=3))
    with Heartbeat(store, replace(HALF, num_done=100)):
        assert read_status(store.uri).state == "running"
    assert read_status(store.uri).state == "stopped"
    for number in (0, 1):
        store.write(part_key(CAPTIONS, number), b"")
    assert (read_status(store.uri).state, read_status(store.uri).num_gone) == ("unfinished", 3)


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-40T00:00:00"])
def test_an_odd_time_is_one_line(store: Store, at: str) -> None:
    with Heartbeat(store, HALF):
        pass
    beat = json.loads(store.read(PROGRESS))
    store.write(PROGRESS, json.dumps({**beat, "beat_at": at}).encode())
    with pytest.raises(DatasetError) as caught:
        read_status(store.uri)
    assert caught.value.uri == store.address(PROGRESS)
    store.write(PROGRESS, json.dumps({**beat, "beat_at": "2026-01-01T00:00:00"}).encode())
    assert read_status(store.uri).state == "stopped"


def test_a_run_that_was_taken_over_does_not_overwrite_the_progress(tmp_path: Path) -> None:
    where = open_store(str(tmp_path / "out"), StorageConfig())
    with where.lock("lock.json") as lock, Heartbeat(lock.store, HALF):
        (tmp_path / "out" / "lock.json").unlink()
        where.write(PROGRESS, b"of the successor")
    assert where.read(PROGRESS) == b"of the successor"


def test_pictures_that_a_complete_run_did_not_read_are_told(store: Store) -> None:
    with Heartbeat(store, HALF):
        pass
    assert "NOT READ" not in shown(store)
    write_summary(store, replace(SUMMARY, skipped={".svg": 50, ".txt": 3}))
    assert read_status(store.uri).skipped == {".svg": 50, ".txt": 3}
    assert shown(store)["NOT READ"].startswith("50 .svg: 33%")
