"""A training run's output: complete, running, or stopped."""

from dataclasses import dataclass, field
from typing import Any

from raycap.errors import DatasetError, ObjectNotFound
from raycap.reporting.blocks import last_name
from raycap.results.labels import metric_label
from raycap.results.training import (
    HISTORY,
    NON_FINITE,
    EpochRecord,
    Training,
    read_history,
    read_training,
)
from raycap.runs.records import CONFIG, RUN, read_json
from raycap.storage.base import Store


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
    outcome: Training | None
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


def read_run(store: Store) -> TrainingRun:
    """Read a training run's output.

    Raises:
        DatasetError: one of its files is damaged.
        StorageError: the store refuses.
    """
    run, config = read_json(store, RUN), _read_optional(store, CONFIG) or {}
    outcome, mark = read_training(store), run.get("fingerprint", {})
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


def _read_optional(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return read_json(store, key)
    except ObjectNotFound:
        return None


def _read_history(store: Store) -> list[EpochRecord]:
    """Read the epochs that have ended; none before the first has."""
    try:
        return read_history(store.read(HISTORY))
    except ObjectNotFound:
        return []
    except DatasetError as error:
        raise DatasetError(
            f"{store.address(HISTORY)}: is damaged; restore it, or train again in a new output"
        ) from error
