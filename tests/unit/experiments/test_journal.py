"""The journal of an experiment: trials that ended, trials to run again, files left behind."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from raycap.errors import DatasetError
from raycap.experiments.journal import Experiment, LineJournal
from raycap.storage.base import Store
from raycap.storage.local import LocalStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    name: str
    status: str
    reason: str = ""
    value: float = 0.0


TRIALS: Experiment[Trial] = Experiment(folder="trials/", record="trial.json", form=Trial)
GOOD = Trial(name="good", status="finished", value=1 / 3)
BAD = Trial(name="bad", status="failed", reason="out of memory")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = LocalStore(tmp_path)
    for trial in (GOOD, BAD):
        TRIALS.write(store, trial)
    store.write("trials/running/checkpoints/step-1/weights", b"")
    return store


def test_ended_trials_come_back_by_name(store: Store) -> None:
    assert TRIALS.read_ended(store) == {"bad": BAD, "good": GOOD}
    assert TRIALS.read_ended(store, ["running", "good"]) == {"good": GOOD}
    assert TRIALS.read_ended(LocalStore(Path(store.uri) / "elsewhere")) == {}


def test_failed_trials_are_left_out_where_they_are_to_run_again(store: Store) -> None:
    assert TRIALS.read_ended(store, retry_failed=True) == {"good": GOOD}


def test_only_a_record_in_the_trials_own_folder_counts(store: Store) -> None:
    store.write("trials/running/trials/inner/trial.json", b"{}")
    assert TRIALS.read_ended(store).keys() == {"bad", "good"}


def test_trials_with_files_left_behind_are_found(store: Store) -> None:
    store.write("trials/bad/last/model", b"")
    store.write("trials/good/model/last/model", b"")
    assert TRIALS.find_leftovers(store, ("checkpoints/", "last/")) == {"running", "bad"}


def test_a_damaged_record_is_an_error_only_where_it_is_read(store: Store) -> None:
    store.write("trials/bad/trial.json", b'{"name": "bad"}')
    assert TRIALS.read_ended(store, ["good"]) == {"good": GOOD}
    with pytest.raises(DatasetError) as caught:
        TRIALS.read_ended(store)
    assert caught.value.uri == store.address("trials/bad/trial.json")


@pytest.mark.parametrize("line", ["[1]", "3", "{"])
def test_a_line_that_is_no_object_damages_a_journal_of_lines(tmp_path: Path, line: str) -> None:
    file = tmp_path / "trials.jsonl"
    for text in (f"{line}\n", f'{{"fingerprint": {{}}}}\n{line}\n'):
        file.write_text(text)
        with pytest.raises(DatasetError) as caught:
            LineJournal(file, {})
        assert caught.value.uri == str(file)
