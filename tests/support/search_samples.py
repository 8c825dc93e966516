"""Outputs of hyperparameter searches for reports, written by hand."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from raycap.config import StorageConfig
from raycap.results.search import SEARCH, Search, read_search
from raycap.runs.records import encode_json
from raycap.storage.stores import open_store
from tests.support.training_samples import FINISHED_AT, scores_of, training_history

STARTED_AT = "2026-11-24T06:00:00+00:00"
SPACE = {
    "train.lr": {"loguniform": [0.0001, 0.01]},
    "train.batch_size": {"choice": [16, 32, 64]},
    "architecture.num_layers": {"integers": [1, 4]},
    "architecture.encoder": {"choice": ["resnet50", "small-cnn"]},
    "optimizer.clip_norm": {"choice": [1.0, None]},
}


def history_of(value: float, num_epochs: int) -> list[dict[str, Any]]:
    """Tell epochs whose CIDEr-D rises to a value, the best in the last."""
    records = training_history(num_epochs, num_epochs)
    rising = [value * (1 - 0.6 ** (epoch + 1)) for epoch in range(num_epochs - 1)]
    return [
        asdict(replace(record, scores=scores_of(cider_d, 12.0 + record.epoch)))
        for record, cider_d in zip(records, [*rising, value], strict=True)
    ]


def trial(
    number: int, params: dict[str, Any], value: float | None, **changes: Any
) -> dict[str, Any]:
    """Tell of a trial that finished; of `changes`, `num_epochs` is not part of the record."""
    num_epochs = changes.pop("num_epochs", 5)
    history = [] if value is None else history_of(value, num_epochs)
    return {
        "name": f"t-{number:08x}",
        "params": params,
        "status": "finished",
        "reason": "",
        "best_epoch": num_epochs if history else None,
        "value": value,
        "history": history,
        "images_per_s": 12.3,
        "wall_s": 20.1 + number,
        "output": f"/searches/one/trials/t-{number:08x}",
    } | changes


def mixed_trials(num_trials: int = 18) -> list[dict[str, Any]]:
    """Tell of trials of all statuses over SPACE; the learning rate matters most."""
    trials = []
    for number in range(num_trials):
        share = (number * 7 % num_trials) / (num_trials - 1)
        params = {
            "train.lr": 0.0001 * 100**share,
            "train.batch_size": (16, 32, 64)[number % 3],
            "architecture.num_layers": 1 + number % 4,
            "architecture.encoder": ("resnet50", "small-cnn")[number % 2],
            "optimizer.clip_norm": (1.0, None)[number // 2 % 2],
        }
        value = 1.1 - 1.2 * (share - 0.6) ** 2 - 0.05 * (number % 3) + 0.03 * (number % 2)
        kind: dict[str, Any] = {}
        if number % 5 == 1:
            kind = {"status": "stopped", "reason": "ASHA: others were better", "num_epochs": 2}
            value *= 0.7
        trials.append(trial(number, params, value, **kind))
    first = trials[0]["params"]
    trials.append(
        trial(90, first, None, status="failed", reason="ModelError: loss was not finite in epoch 1")
    )
    trials.append(trial(91, first, None, status="running"))
    return trials


def search_content(trials: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """Give the content of `tune.json`."""
    trials = mixed_trials() if trials is None else trials
    ended = [it for it in trials if it["value"] is not None and it["status"] == "finished"]
    return {
        "output": "/searches/one",
        "dataset": "/prepared/scenes",
        "kind": "hybrid",
        "metric": "cider_d",
        "algorithm": "random",
        "scheduler": "asha",
        "space": SPACE,
        "num_planned": len(trials),
        "best": max(ended, key=lambda it: it["value"])["name"] if ended else None,
        "trials": trials,
        "end": "finished",
        "wall_s": 420.0,
        "started_at": STARTED_AT,
        "finished_at": FINISHED_AT,
        "versions": {"raycap": "0.1.0"},
        "config": {"train": {"num_epochs": 5}},
    } | changes


def write_search(folder: Path, trials: list[dict[str, Any]] | None = None, **changes: Any) -> str:
    """Write a search's record beside a `run.json`, as `raycap tune` leaves them."""
    store = open_store(str(folder), StorageConfig())
    store.write("run.json", encode_json({"fingerprint": {"command": "tune", "kind": "hybrid"}}))
    store.write(SEARCH, encode_json(search_content(trials, **changes)))
    return store.uri


def search_of(folder: Path, trials: list[dict[str, Any]] | None = None, **changes: Any) -> Search:
    """Write a search and read it again."""
    search = read_search(open_store(write_search(folder, trials, **changes), StorageConfig()))
    assert search
    return search


def grid_trials(values: Sequence[float | None]) -> list[dict[str, Any]]:
    """Tell of trials of three learning rates and two batch sizes, in order."""
    pairs = [(lr, size) for size in (16, 32) for lr in (0.0001, 0.0005, 0.001)]
    return [
        trial(number, {"train.lr": lr, "train.batch_size": size}, value)
        for number, ((lr, size), value) in enumerate(zip(pairs, values, strict=False))
    ]


GRID = {
    "train.lr": {"grid": [0.0001, 0.0005, 0.001]},
    "train.batch_size": {"grid": [16, 32]},
}
