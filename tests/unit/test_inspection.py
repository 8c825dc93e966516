"""What an output is, how far, and whether it is complete: of every command."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from raycap.config import StorageConfig
from raycap.errors import ConfigError, DatasetError
from raycap.inspection import find_kind, status, verify
from raycap.results.captioning import OutputStatus, Verification
from raycap.results.outputs import Completeness, OutputKind, State, WorkStatus
from raycap.runs.records import LOCK
from raycap.storage.stores import open_store
from tests.support.dataset_samples import dataset_row, write_dataset
from tests.support.evaluation_samples import run as evaluate
from tests.support.evaluation_samples import write_corpus
from tests.support.outputs import row, write_output
from tests.support.search_samples import mixed_trials, write_search
from tests.support.study_samples import write_study_sample
from tests.support.training_samples import (
    begin_training,
    training_history,
    write_calibration_sample,
    write_history,
    write_run,
)


def write_model(folder: Path) -> None:
    """Write the files by which a model is recognised as whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("raycap.json", "model.safetensors"):
        (folder / name).write_text("{}")


def training(folder: Path) -> None:
    write_run(folder)
    write_model(folder / "model")


def search(folder: Path) -> None:
    trials = [trial for trial in mixed_trials() if trial["status"] != "running"]
    write_search(folder, trials)
    write_model(folder / "model")
    for trial in trials:
        (folder / "trials" / trial["name"]).mkdir(parents=True)
        (folder / "trials" / trial["name"] / "trial.json").write_text("{}")
    for name in ("best.yaml", "trials.parquet"):
        (folder / name).write_text("")


def study(folder: Path) -> None:
    write_study_sample(folder)
    (folder / "report.html").write_text("")
    for system in json.loads((folder / "study.json").read_text())["systems"]:
        (folder / "systems" / system["name"]).mkdir(parents=True)
        (folder / "systems" / system["name"] / "system.json").write_text("{}")


def calibration(folder: Path) -> None:
    write_calibration_sample(folder)
    write_model(folder)


def dataset(folder: Path) -> None:
    rows = [dataset_row(f"{number}.jpg", "train", ["a cat"]) for number in range(3)]
    write_dataset(folder, rows, [], embedded=False)


def evaluation(folder: Path) -> None:
    systems, references = write_corpus(folder.parent, 5)
    evaluate(systems, references, output=folder)


WRITERS: dict[OutputKind, tuple[Callable[[Path], None], str]] = {
    OutputKind.TRAINING: (training, "model/model.safetensors"),
    OutputKind.SEARCH: (search, "best.yaml"),
    OutputKind.STUDY: (study, "report.html"),
    OutputKind.CALIBRATION: (calibration, "model.safetensors"),
    OutputKind.DATASET: (dataset, "train/part-000000.parquet"),
    OutputKind.EVALUATION: (evaluation, "scores"),
}
"""What writes a complete output of each kind, and a file that it needs."""


@pytest.mark.parametrize("kind", WRITERS)
def test_a_complete_output_is_named_and_complete(kind: OutputKind, tmp_path: Path) -> None:
    write, _ = WRITERS[kind]
    write(tmp_path / "out")
    found = verify(tmp_path / "out")
    assert isinstance(found, Completeness)
    assert found.problems == []
    assert found.is_complete
    told = status(tmp_path / "out")
    assert told == found.status
    assert (told.kind, told.state) == (kind, State.COMPLETE)
    assert told.num_done


@pytest.mark.parametrize("kind", WRITERS)
def test_an_output_that_lacks_a_file_is_not_complete(kind: OutputKind, tmp_path: Path) -> None:
    write, needed = WRITERS[kind]
    write(tmp_path / "out")
    path = tmp_path / "out" / needed
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        file.unlink()
    found = verify(tmp_path / "out")
    assert not found.is_sound
    assert not found.is_complete
    assert str(path) in found.problems[0]


def test_an_output_of_captions_is_left_to_its_own_checks(tmp_path: Path) -> None:
    write_output(open_store(str(tmp_path), StorageConfig()), [row("a.jpg")])
    assert isinstance(verify(tmp_path), Verification)
    assert isinstance(status(tmp_path), OutputStatus)


def test_an_unfinished_training_run_tells_how_far_it_is(tmp_path: Path) -> None:
    store = begin_training(tmp_path)
    write_history(store, training_history()[:3])
    found = verify(tmp_path)
    assert found.is_sound
    assert not found.is_complete
    told = status(tmp_path)
    assert isinstance(told, WorkStatus)
    assert (told.state, told.num_done, told.num_total) == (State.STOPPED, 3, 10)


def test_an_unfinished_search_and_calibration_tell_how_far_they_are(tmp_path: Path) -> None:
    write_search(tmp_path / "search", mixed_trials(), end="")
    found = status(tmp_path / "search")
    assert isinstance(found, WorkStatus)
    assert found.num_total is not None
    assert 0 < found.num_done < len(mixed_trials()) <= found.num_total
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "trials.jsonl").write_text(
        '{"fingerprint": {}}\n{"slice": {}}\n{"trial": {}}\n{"trial": {}}\n'
    )
    told = status(tmp_path / "calibration")
    assert isinstance(told, WorkStatus)
    assert (told.kind, told.num_done, told.num_total) == (OutputKind.CALIBRATION, 2, None)


def test_a_process_that_holds_the_lock_is_running(tmp_path: Path) -> None:
    store = begin_training(tmp_path)
    with store.lock(LOCK):
        assert status(tmp_path).state == State.RUNNING
    lock = tmp_path / LOCK
    os.utime(lock, (1, 1))  # before this process began: its number was another's then
    assert status(tmp_path).state == State.STOPPED
    holder = json.loads(lock.read_text())
    lock.write_text(json.dumps({**holder, "host": f"not-{socket.gethostname()}"}))
    assert status(tmp_path).state == State.UNKNOWN
    lock.write_text(json.dumps({**holder, "pid": 2**22 + 1}))
    assert status(tmp_path).state == State.STOPPED
    lock.write_text("")
    assert status(tmp_path).state == State.STOPPED
    lock.write_text("odd")
    assert status(tmp_path).state == State.UNKNOWN


@pytest.mark.parametrize("table", ["another-boot pid:[1]", None])
def test_a_holder_whose_processes_are_not_seen_here_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str | None
) -> None:
    """As in another container of the same host name, or where the system tells no table."""
    store = begin_training(tmp_path)
    with store.lock(LOCK):
        holder = json.loads((tmp_path / LOCK).read_text())
    for pid in (os.getpid(), 2**22 + 1):
        (tmp_path / LOCK).write_text(json.dumps({**holder, "pid": pid, "processes": table}))
        assert status(tmp_path).state == State.UNKNOWN
    monkeypatch.setattr("raycap.inspection.process_table", lambda: table)
    assert (status(tmp_path).state == State.STOPPED) is (table is not None)


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    for check in (status, verify):
        with pytest.raises(DatasetError, match=r"run\.json, dataset\.json") as caught:
            check(tmp_path)
        assert caught.value.uri == str(tmp_path)
        with pytest.raises(ConfigError):
            check(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text('{"fingerprint": 3}')
    with pytest.raises(DatasetError):
        find_kind(open_store(str(tmp_path), StorageConfig()))


def test_a_released_lock_in_a_store_without_locks_of_its_own_is_nobodys() -> None:
    store = open_store("memory://released/out", StorageConfig())
    store.write("run.json", json.dumps({"fingerprint": {"kind": "blip", "train": {}}}).encode())
    with store.lock(LOCK):
        assert status(store.uri).state == State.UNKNOWN
    assert status(store.uri).state == State.STOPPED
