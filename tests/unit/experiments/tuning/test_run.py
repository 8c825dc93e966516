"""Settings and model of the best trial, copied to the search's output once."""

from dataclasses import replace
from pathlib import Path

import pytest

from raycap.config import StorageConfig, TrainConfig, TuneConfig
from raycap.config.loading import load_config
from raycap.experiments.tuning.run import keep_best
from raycap.experiments.tuning.space import trial_config
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from tests.support.tuned import PARAMS, search_of, trial, tune_config


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "search"), StorageConfig())


def test_the_best_settings_are_those_that_the_trial_was_trained_with(
    store: Store, tmp_path: Path
) -> None:
    config = load_config(
        TuneConfig,
        None,
        ["kind=hybrid", "optimizer.clip_norm=null", "train.num_epochs=3", "tune.seed=1"],
    )
    best = trial("t-1", 0.5)
    store.write("trials/t-1/model/raycap.json", b"{}")
    keep_best(store, config, best, "cider_d", None)
    file = tmp_path / "search/best.yaml"
    assert file.read_text().startswith("# The best of the trials of a search: t-1, cider_d 0.5\n")
    assert load_config(TrainConfig, file, []) == trial_config(config.base(), PARAMS)
    assert load_config(TrainConfig, file, ["train.num_epochs=9"]).train.num_epochs == 9


def test_the_best_model_replaces_another(store: Store, tmp_path: Path) -> None:
    def copied() -> dict[str, bytes]:
        folder = tmp_path / "search/model"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    config = tune_config(None)
    one, two = trial("t-1", 0.5), trial("t-2", 0.75)
    store.write("trials/t-1/model/old", b"1")
    store.write("trials/t-2/model/new", b"2")
    keep_best(store, config, one, "cider_d", None)
    assert copied() == {"old": b"1"}
    before = search_of([one, two], best="t-1")
    keep_best(store, config, two, "cider_d", before)
    assert copied() == {"new": b"2"}
    # The same trial, unchanged: its model is there already.
    before = search_of([one, two], best="t-2")
    store.write("trials/t-2/model/new", b"3")
    keep_best(store, config, two, "cider_d", before)
    assert copied() == {"new": b"2"}
    for stale in (
        replace(before, end=""),  # the last invocation ended before copying
        search_of([one, replace(two, value=0.7)], best="t-2"),
    ):
        store.write("model/new", b"2")
        keep_best(store, config, two, "cider_d", stale)
        assert copied() == {"new": b"3"}
    store.delete_all("model/")
    keep_best(store, config, two, "cider_d", before)
    assert copied() == {"new": b"3"}
