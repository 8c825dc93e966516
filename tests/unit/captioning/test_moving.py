"""Which run an output holds where its source has moved."""

from pathlib import Path
from typing import Any

import pytest

from raycap.captioning.moving import find_move
from raycap.errors import RunConflict
from raycap.results.captioning import MOVED_TO, source_dataset
from raycap.runs.records import RUN, encode_json, read_json
from raycap.storage.local import LocalStore

MODEL = {"model": {"kind": "stub"}}


def run_over(source: str, **others: Any) -> dict[str, Any]:
    return {"source": source, **MODEL, **others}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "out")
    store.write(RUN, encode_json({"fingerprint": run_over("/old"), "created_at": "then"}))
    return store


def test_a_source_that_moves_twice_and_back_keeps_its_run(store: LocalStore) -> None:
    for here, former in (("/new", "/old"), ("/newer", "/new/"), ("/old", "file:///newer")):
        found = find_move(store, run_over(here), former)
        assert (found.fingerprint, found.is_moved) == (run_over("/old"), True)
        found.record(store)
        assert read_json(store, RUN) == {
            "fingerprint": run_over("/old"),
            "created_at": "then",
            MOVED_TO: here,
        }
        again = find_move(store, run_over(here), None)  # the address is not given again
        assert (again.fingerprint, again.is_moved) == (run_over("/old"), True)


@pytest.mark.parametrize(
    ("ours", "former"),
    [
        (run_over("/new"), None),
        (run_over("/new"), "/other"),
        (run_over("/new", split="test"), "/old"),
        ({**run_over("/new"), "model": {"kind": "blip"}}, "/old"),
    ],
)
def test_any_other_run_is_left_to_the_claim(
    ours: dict[str, Any], former: str | None, store: LocalStore
) -> None:
    found = find_move(store, ours, former)
    assert (found.fingerprint, found.is_moved) == (ours, False)
    before = store.read(RUN)
    found.record(store)
    assert store.read(RUN) == before


def test_the_first_address_is_refused_once_the_source_has_moved(store: LocalStore) -> None:
    find_move(store, run_over("/new"), "/old").record(store)
    with pytest.raises(RunConflict, match="--source-moved-from /new"):
        find_move(store, run_over("/old"), None)


def test_a_new_output_has_no_move(tmp_path: Path) -> None:
    found = find_move(LocalStore(tmp_path), run_over("/new"), "/old")
    assert (found.fingerprint, found.is_moved) == (run_over("/new"), False)


def test_images_inside_a_dataset_are_read_where_it_is_now() -> None:
    fingerprint = run_over("/old", split=None)
    assert source_dataset({"fingerprint": fingerprint}) == "/old"
    assert source_dataset({"fingerprint": fingerprint, MOVED_TO: "/new"}) == "/new"
