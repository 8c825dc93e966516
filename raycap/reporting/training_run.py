"""A training run's output, read for the page: complete, still going, or stopped."""

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError, ObjectNotFound
from raycap.reporting.blocks import last_name
from raycap.reporting.score_table import METRIC_LABELS
from raycap.runs.records import CONFIG, RUN, read_json
from raycap.storage.base import Store
from raycap.training.scores import LENGTH_GAP
from raycap.training.state import EpochRecord

# As in `train.record`, `train.epochs` and `train.nonfinite`, which would load torch.
TRAINING = "training.json"
HISTORY = "history.jsonl"
NON_FINITE = "nonfinite.json"

_LABELS = {**METRIC_LABELS, "loss": "validation loss", LENGTH_GAP: "length gap"}
_RECORD = TypeAdapter(EpochRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `training.json` tells of the whole run; see `train.record.Training`."""

    dataset: str
    end: str
    num_images: int
    num_steps: int
    global_batch: int
    micro_batch: int
    images_per_s: float
    wall_s: float
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str = ""


_OUTCOME = TypeAdapter(Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What a run's output tells."""

    address: str
    dataset: str
    """Address of the dataset; of what it was prepared from, where the run is not complete."""
    kind: str
    metric: str
    """What the best epoch is chosen by."""
    num_epochs_planned: int
    history: tuple[EpochRecord, ...]
    outcome: Outcome | None
    """None where the run is not complete."""
    non_finite: dict[str, Any] | None
    """The step whose loss was no number; None where all were."""
    started_at: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it among others."""
        return last_name(self.address)

    @property
    def metric_label(self) -> str:
        """What the best epoch is chosen by, in words."""
        return metric_label(self.metric)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose model is in `model/`; None before the first is over."""
        return next((record for record in reversed(self.history) if record.is_best), None)

    @property
    def last(self) -> EpochRecord | None:
        """The epoch that ended last."""
        return self.history[-1] if self.history else None

    @property
    def overfits_since(self) -> int | None:
        """The epoch from which validation loss rises while training loss falls."""
        return self.last.overfits_since if self.last else None

    @property
    def end(self) -> str:
        """How the run ended, in words."""
        num_done = len(self.history)
        if self.non_finite:
            step, epoch = self.non_finite.get("step"), self.non_finite.get("epoch")
            return f"stopped at step {step} of epoch {epoch}: the loss was not finite"
        if self.outcome is None:
            return f"not complete: {num_done} of {self.num_epochs_planned} epochs so far"
        if self.outcome.end == "exhausted":
            return f"stopped early after {num_done} epochs: no better {self.metric_label} came"
        return f"all {num_done} epochs were trained"


def metric_label(metric: str) -> str:
    """Name what epochs are compared by, in words."""
    return _LABELS.get(metric, metric)


def read_run(store: Store) -> TrainingRun:
    """Read a training run's output.

    Raises:
        DatasetError: one of its files is damaged.
        StorageError: the store refuses.
    """
    run, config = read_json(store, RUN), _read_optional(store, CONFIG) or {}
    outcome, mark = _read_outcome(store), run.get("fingerprint", {})
    return TrainingRun(
        address=store.uri,
        dataset=outcome.dataset if outcome else str(mark.get("dataset", {}).get("source", "")),
        kind=str(mark.get("kind", "")),
        metric=str(config.get("validation", {}).get("metric", "loss")),
        num_epochs_planned=int(config.get("train", {}).get("num_epochs", 0)),
        history=tuple(_read_history(store)),
        outcome=outcome,
        non_finite=None if outcome else _read_optional(store, NON_FINITE),
        started_at=str(run.get("created_at", "")),
        config=config,
        versions=outcome.versions if outcome else run.get("versions", {}),
    )


def _read_outcome(store: Store) -> Outcome | None:
    found = _read_optional(store, TRAINING)
    try:
        return None if found is None else _OUTCOME.validate_python(found)
    except ValidationError as error:
        raise _damaged(store, TRAINING) from error


def _read_optional(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_json(store, key)
    except ObjectNotFound:
        return None


def _read_history(store: Store) -> list[EpochRecord]:
    """Read the epochs that are over; none where the first one is not."""
    try:
        lines = store.read(HISTORY).splitlines()
    except ObjectNotFound:
        return []
    try:
        return [_RECORD.validate_python(json.loads(line)) for line in lines]
    except (ValidationError, ValueError) as error:
        raise _damaged(store, HISTORY) from error


def _damaged(store: Store, key: str) -> DatasetError:
    return DatasetError(
        f"{store.address(key)}: is damaged; restore it, or train again in a new output"
    )
