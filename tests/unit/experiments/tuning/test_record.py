"""The files of a search: fingerprint, trials, table, and the best trial."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raycap.config import StorageConfig, TuneConfig
from raycap.config.loading import load_config
from raycap.errors import DatasetError
from raycap.experiments.tuning.record import (
    TRIALS,
    measure_trial,
    name_of,
    write_search,
)
from raycap.experiments.tuning.run import search_fingerprint
from raycap.experiments.tuning.space import read_space
from raycap.results.search import Trial, by_value, pick_best, read_search
from raycap.results.status import Status
from raycap.results.training import Metric, encode_history
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from tests.support.tuned import PARAMS, epoch_record, search_of, trial

DATASET = {"parts": "x"}
GRID = {"train.lr": [1e-3, 1e-4], "engine.num_workers": [1, 2]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "search"), StorageConfig())


def test_a_trial_is_named_after_its_settings_in_whatever_order() -> None:
    name = name_of({"train.lr": 0.001, "train.batch_size": 16})
    assert name == name_of({"train.batch_size": 16, "train.lr": 0.001})
    assert name.startswith("t-")
    assert len(name) == 10
    others: list[dict[str, Any]] = [
        {"train.lr": 0.002, "train.batch_size": 16},
        {"train.lr": 0.001},
        {"train.lr": 0.001, "train.batch_size": None},
        {"train.lr": 0.001, "train.batch_size": True},
    ]
    assert len({name_of(other) for other in others} - {name}) == 4


def fingerprint(*settings: str, dataset: dict[str, Any] = DATASET) -> dict[str, Any]:
    config = load_config(TuneConfig, None, ["kind=hybrid", *settings])
    return search_fingerprint(dataset, config, read_space(config))


@pytest.mark.parametrize(
    "setting",
    [
        "tune.num_trials=3",
        "tune.max_total_epochs=9",
        "tune.max_time_s=9",
        "tune.scheduler=median",
        "tune.seed=7",
        "tune.keep_models=all",
        "engine.torch_threads=1",
        "engine.max_failures=0",
        "train.checkpoint_every_s=1",
        "storage.list_threads=2",
        "tune.space.train.lr=[1e-3, 1e-5]",
        "train.lr=1",  # it is searched
        "train.batch_size=2",
    ],
)
def test_budgets_the_spread_of_work_and_searched_values_may_change(setting: str) -> None:
    space = "tune.space={train: {lr: [1e-3], batch_size: [8, 16]}}"
    assert fingerprint(space, setting) == fingerprint(space)


@pytest.mark.parametrize(
    "setting",
    [
        "kind=transformer",
        "train.num_epochs=7",
        "train.batch_size=2",
        "architecture.width=64",
        "validation.metric=loss",
        "augment.flip=0.5",
        "tune.space.architecture.num_layers=[1]",
    ],
)
def test_what_all_trials_share_may_not_change(setting: str) -> None:
    space = "tune.space={train: {lr: [1e-3]}}"
    assert fingerprint(space, setting) != fingerprint(space)


def test_another_dataset_is_another_search_and_workers_count_where_they_change_a_step() -> None:
    space = "tune.space={train: {lr: [1e-3]}}"
    assert fingerprint(space, dataset={"parts": "y"}) != fingerprint(space)
    assert fingerprint(space, "engine.num_workers=2") != fingerprint(space)
    alike = ("engine.num_workers=2", "train.batch_size=8")
    assert fingerprint(space, *alike) == fingerprint(space, "train.batch_size=16")
    spread = "tune.space={engine: {num_workers: [1, 2]}, storage: {list_threads: [2]}}"
    assert fingerprint(spread, "engine.num_workers=2") == fingerprint(spread)


def test_a_trial_is_measured_by_its_history(store: Store) -> None:
    name = name_of(PARAMS)
    assert measure_trial(store, name, PARAMS, Status.RUNNING, "cider_d").history == []
    history = [epoch_record(1, 0.5), epoch_record(2, 0.75), epoch_record(3, 0.7)]
    store.write(f"trials/{name}/history.jsonl", encode_history(history))
    found = measure_trial(store, name, PARAMS, Status.FAILED, "cider_d", "out of memory")
    assert (found.best_epoch, found.value, found.best) == (2, 0.75, history[1])
    assert (found.images_per_s, found.wall_s) == (100.0, 12.6)
    assert (found.status, found.reason) == (Status.FAILED, "out of memory")
    assert found.output == f"{store.uri}/trials/{name}"


def test_trials_and_searches_come_back_as_they_were(store: Store) -> None:
    assert TRIALS.read_ended(store) == {}
    assert read_search(store) is None
    trials = [
        trial("t-1", 0.5, 1 / 3),
        trial("t-2", status=Status.FAILED, reason="a [b] c", params={"train.lr": None}),
    ]
    for item in trials:
        TRIALS.write(store, item)
    assert list(TRIALS.read_ended(store).values()) == trials
    search = search_of(trials, best="t-1", end="budget", wall_s=1.5)
    write_search(store, search)
    assert read_search(store) == search
    assert search.trial("t-2") == trials[1]
    assert (search.count(Status.FAILED), search.count(Status.STOPPED)) == (1, 0)


def test_values_that_are_no_numbers_come_back_too(store: Store) -> None:
    TRIALS.write(store, trial("t-1", math.nan, value=math.nan))
    found = TRIALS.read_ended(store)["t-1"]
    assert found.value is not None
    assert math.isnan(found.value)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "JSON"),
        ('{"name": "t-1"}', "params"),
        ('{"name": "t-1", "params": {}, "status": "lost"}', "status"),
    ],
)
def test_a_damaged_trial_is_named(store: Store, content: str, fact: str) -> None:
    store.write("trials/t-1/trial.json", content.encode())
    with pytest.raises(DatasetError, match=fact) as caught:
        TRIALS.read_ended(store)
    assert caught.value.uri == store.address("trials/t-1/trial.json")


def test_a_damaged_search_is_named(store: Store) -> None:
    store.write("tune.json", b'{"output": 1}')
    with pytest.raises(DatasetError, match="output") as caught:
        read_search(store)
    assert caught.value.uri == store.address("tune.json")


def test_the_table_has_a_row_a_trial_and_its_settings_as_columns(
    store: Store, tmp_path: Path
) -> None:
    failed = trial("t-2", status=Status.FAILED, reason="broken", params={"train.lr": 0.01})
    write_search(store, search_of([trial("t-1", 0.5, 0.75, wall_s=2.5), failed]))
    table = pq.read_table(tmp_path / "search/trials.parquet")
    first, second = table.to_pylist()
    assert table.column_names[:6] == [
        *("trial", "status", "reason", "train.batch_size", "train.lr", "num_epochs"),
    ]
    assert {name: first[name] for name in ("trial", "status", "num_epochs", "best_epoch")} == {
        "trial": "t-1",
        "status": "finished",
        "num_epochs": 2,
        "best_epoch": 2,
    }
    assert (first["value"], first["cider_d"], first["gap"], first["wall_s"]) == (
        *(0.75, 0.75, 0.25, 2.5),
    )
    assert (first["train.batch_size"], first["train.lr"]) == (16, 0.001)
    assert (second["train.batch_size"], second["train.lr"]) == (None, 0.01)
    assert (second["status"], second["reason"], second["value"]) == ("failed", "broken", None)


def test_a_search_without_a_trial_has_a_table_too(store: Store, tmp_path: Path) -> None:
    write_search(store, search_of([]))
    table = pq.read_table(tmp_path / "search/trials.parquet")
    assert (table.num_rows, "train.lr" in table.column_names) == (0, True)


def valued(name: str, value: float | None, **changes: Any) -> Trial:
    return replace(trial(name), value=value, **changes)


@pytest.mark.parametrize(
    ("metric", "values", "order"),
    [
        ("cider_d", [0.5, 0.9, 0.1], [1, 0, 2]),
        ("loss", [0.5, 0.9, 0.1], [2, 0, 1]),
        ("length_gap", [-3.0, 1.0, 2.0], [1, 2, 0]),
        ("cider_d", [math.nan, 0.0, -1.0], [1, 2, 0]),
        ("loss", [math.nan, math.inf, 2.0], [2, 0, 1]),
        ("cider_d", [0.5, 0.5, 0.5], [0, 1, 2]),
    ],
)
def test_the_best_trial_comes_first_by_the_metric(
    metric: Metric, values: list[float], order: list[int]
) -> None:
    trials = [valued(f"t-{number}", value) for number, value in enumerate(values)]
    assert by_value(trials, metric) == [trials[place] for place in order]
    assert pick_best(trials, metric) == trials[order[0]]


def test_failed_trials_and_those_without_an_epoch_are_last_and_never_best() -> None:
    failed = valued("t-1", 9.0, status=Status.FAILED)
    begun = valued("t-2", None, status=Status.RUNNING)
    running = valued("t-3", 0.5, status=Status.RUNNING)
    stopped = valued("t-4", 0.25, status=Status.STOPPED)
    trials = [failed, begun, stopped, running]
    assert by_value(trials, "cider_d") == [running, stopped, begun, failed]
    assert pick_best(trials, "cider_d") == running
    assert pick_best([failed, begun], "cider_d") is None
    assert pick_best([], "cider_d") is None
