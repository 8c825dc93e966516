"""Files of a search: its record, the records of its trials, and the table of trials."""

import hashlib
import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.errors import ObjectNotFound
from raycap.experiments.journal import Experiment
from raycap.results.search import SEARCH, Params, Search, Trial
from raycap.results.status import Status
from raycap.results.training import HISTORY, Metric, best_epoch, read_history
from raycap.runs.records import encode_json
from raycap.storage.base import Store

TABLE = "trials.parquet"
BEST = "best.yaml"
MODEL = "model/"

TRIALS: Experiment[Trial] = Experiment(folder="trials/", record="trial.json", form=Trial)


def name_of(params: Params) -> str:
    """Return the name of the trial with these settings, a hash of them."""
    text = json.dumps(params, sort_keys=True)
    return f"t-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def measure_trial(
    store: Store, name: str, params: Params, status: Status, metric: Metric, reason: str = ""
) -> Trial:
    """Read the result of a trial, finished or not, from its output."""
    try:
        history = read_history(store.read(f"{TRIALS.folder_of(name)}{HISTORY}"))
    except ObjectNotFound:
        history = []
    values = [record.value(metric) for record in history]
    losses = [record.validation_loss for record in history]
    best = best_epoch(values, losses, metric) if history else None
    train_s = sum((record.train_s for record in history), 0.0)
    num_images = sum(record.num_images for record in history)
    return Trial(
        name=name,
        params=params,
        status=status,
        reason=reason,
        best_epoch=best,
        value=None if best is None else values[best - 1],
        history=history,
        images_per_s=round(num_images / train_s, 2) if train_s else 0.0,
        wall_s=round(train_s + sum(record.validation_s for record in history), 2),
        output=store.address(TRIALS.folder_of(name).rstrip("/")),
    )


def write_search(store: Store, search: Search) -> None:
    """Write `tune.json` and `trials.parquet`."""
    store.write(SEARCH, encode_json(asdict(search)))
    sink = pa.BufferOutputStream()
    pq.write_table(_table(search), sink)
    store.write(TABLE, sink.getvalue().to_pybytes())


_COLUMNS = {
    "trial": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "num_epochs": pa.int32(),
    "best_epoch": pa.int32(),
    "value": pa.float64(),
    "train_loss": pa.float64(),
    "fitted_loss": pa.float64(),
    "validation_loss": pa.float64(),
    "gap": pa.float64(),
    "overfits_since": pa.int32(),
    "cider_d": pa.float64(),
    "bleu_4": pa.float64(),
    "rouge_l": pa.float64(),
    "mean_tokens": pa.float64(),
    "length_gap": pa.float64(),
    "images_per_s": pa.float64(),
    "wall_s": pa.float64(),
    "output": pa.string(),
}
"""Columns of `trials.parquet` besides the settings. Losses and scores are of the best epoch."""


def _table(search: Search) -> pa.Table:
    """Make a table with one row per trial."""
    rows = []
    for trial in search.trials:
        best = asdict(trial.best) if trial.best else {}
        row = {**best, **best.get("scores", {}), **asdict(trial)}
        row |= {"trial": trial.name, "num_epochs": len(trial.history)}
        rows.append({name: row.get(name) for name in _COLUMNS})
    fixed = pa.Table.from_pylist(rows, schema=pa.schema(list(_COLUMNS.items())))
    for place, name in enumerate(sorted(search.space), start=3):
        fixed = fixed.add_column(place, name, [[trial.params.get(name) for trial in search.trials]])
    return fixed
