"""Searches, their trials and their settings, as tests of `raycap tune` need them."""

from collections.abc import Sequence
from typing import Any

from raycap.config import TuneConfig
from raycap.config.loading import validate_config
from raycap.results.search import Search, Trial
from raycap.results.status import Status
from raycap.results.training import EpochRecord

PARAMS = {"train.lr": 0.001, "train.batch_size": 16}


def epoch_record(epoch: int, cider_d: float, **changes: Any) -> EpochRecord:
    """Tell of an epoch."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "num_steps": 10 * epoch,
        "num_images": 320,
        "num_unreadable": 0,
        "lr": 1e-5,
        "train_loss": 2.5,
        "fitted_loss": 2.0,
        "validation_loss": 2.25,
        "gap": 0.25,
        "gap_trend": None,
        "overfits_since": None,
        "scores": {"cider_d": cider_d, "bleu_4": 0.25, "mean_tokens": 7.5, "length_gap": -9.5},
        "is_best": True,
        "images_per_s": 100.0,
        "train_s": 3.2,
        "validation_s": 1.0,
    }
    return EpochRecord(**{**values, **changes})


def trial(name: str, *values: float, **changes: Any) -> Trial:
    """Tell of a trial whose epochs had those values of CIDEr-D."""
    best = max(values, default=None)
    told: dict[str, Any] = {
        "name": name,
        "params": PARAMS,
        "status": Status.FINISHED,
        "best_epoch": None if best is None else values.index(best) + 1,
        "value": best,
        "history": [epoch_record(number, value) for number, value in enumerate(values, start=1)],
        "output": f"/search/trials/{name}",
    }
    return Trial(**{**told, **changes})


def search_of(trials: Sequence[Trial], **changes: Any) -> Search:
    """Tell of a search over learning rate and batch size."""
    told: dict[str, Any] = {
        "output": "/my search",
        "dataset": "/prepared/scenes",
        "kind": "hybrid",
        "metric": "cider_d",
        "algorithm": "grid",
        "scheduler": "asha",
        "space": {"train.lr": {"choice": [0.001, 0.01]}, "train.batch_size": {"choice": [16]}},
        "num_planned": len(trials),
        "best": None,
        "trials": list(trials),
        "end": "finished",
    }
    return Search(**{**told, **changes})


def tune_config(space: dict[str, Any] | None, **search: Any) -> TuneConfig:
    """Settings of a search of a model built from scratch; further ones are of `tune`."""
    tune = {"space": space, **search}
    return validate_config(TuneConfig, {"kind": "cnn-lstm", "tune": tune})
