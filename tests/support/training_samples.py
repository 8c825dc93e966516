"""Outputs of training runs and of calibrations for reports, written by hand."""

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raycap.config import CalibrateConfig, GenerationConfig, StorageConfig, TrainConfig
from raycap.experiments.calibration.search import choose
from raycap.results.calibration import (
    Calibration,
    ReferenceLengths,
    ScoredSetting,
    SliceRecord,
    write_calibration,
)
from raycap.results.training import (
    HISTORY,
    NON_FINITE,
    PREVIEW,
    EpochRecord,
    Losses,
    Training,
    best_epoch,
    encode_history,
    overfits_since,
    write_training,
)
from raycap.runs.opening import claim_output
from raycap.runs.records import encode_json
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from raycap.training.epochs import gap_trend
from raycap.training.run import TrainingClaim, training_fingerprint

FINISHED_AT = "2026-11-24T07:00:00+00:00"
REFERENCE_TOKENS = 17.6


def losses_of(epoch: int, turn: int) -> Losses:
    """Give losses that fall; that of validation rises again after an epoch."""
    past = max(0, epoch - turn)
    validation = 1.1 + 2.6 * math.exp(-min(epoch, turn) / 2) + 0.05 * past
    # Still falling at the turn, so that what follows is overfitting.
    fitted = 0.5 + 3 * math.exp(-epoch / max(2, turn / 3))
    return Losses(fitted=fitted, validation=validation)


def training_history(num_epochs: int = 8, turn: int = 5) -> list[EpochRecord]:
    """Tell epochs as training does; validation is best in epoch `turn`."""
    losses = [losses_of(epoch, turn) for epoch in range(1, num_epochs + 1)]
    ciders = [1.2 - (0.02 * abs(epoch - turn)) ** 0.8 for epoch in range(1, num_epochs + 1)]
    return [
        EpochRecord(
            epoch=epoch,
            num_steps=20 * epoch,
            num_images=640,
            num_unreadable=0,
            lr=5e-4 * (1 + math.cos(math.pi * epoch / (num_epochs + 1))) / 2,
            train_loss=now.fitted + 0.4,
            fitted_loss=now.fitted,
            validation_loss=now.validation,
            gap=now.gap,
            gap_trend=gap_trend(losses[:epoch]),
            overfits_since=overfits_since(losses[:epoch]),
            scores=scores_of(ciders[epoch - 1], REFERENCE_TOKENS - 9 / epoch),
            is_best=best_epoch(ciders[:epoch], [it.validation for it in losses[:epoch]], "cider_d")
            == epoch,
            images_per_s=812.5,
            train_s=0.79,
            validation_s=1.5,
        )
        for epoch, now in enumerate(losses, start=1)
    ]


def scores_of(cider_d: float, tokens: float) -> dict[str, float]:
    """Give the scores of an epoch."""
    return {
        **{f"bleu_{order}": cider_d / (1 + order) for order in range(1, 5)},
        "rouge_l": 0.6,
        "cider_d": cider_d,
        "mean_tokens": tokens,
        "reference_mean_tokens": REFERENCE_TOKENS,
        "length_gap": tokens - REFERENCE_TOKENS,
    }


def picture(width: int = 640, height: int = 480) -> bytes:
    """Draw a sheet such as training writes."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (6, 6, 3), np.uint8)
    sink = BytesIO()
    Image.fromarray(tiles).resize((width, height), Image.Resampling.NEAREST).save(sink, "JPEG")
    return sink.getvalue()


def begin_training(folder: Path, config: TrainConfig | None = None) -> Store:
    """Write what a run writes before its first epoch."""
    config = config or TrainConfig.model_validate(
        {"kind": "cnn-lstm", "train": {"num_epochs": 10, "batch_size": 32}}
    )
    store = open_store(str(folder), StorageConfig())
    dataset = {"source": "/data/scenes", "num_images": 800, "num_captions": 4000, "parts": "d1"}
    claim_output(store, TrainingClaim(training_fingerprint(dataset, config), config))
    store.write(PREVIEW, picture())
    return store


def write_history(store: Store, history: list[EpochRecord]) -> None:
    """Write the epochs that are over."""
    store.write(HISTORY, encode_history(history))


def write_run(folder: Path, history: list[EpochRecord] | None = None, **changes: Any) -> str:
    """Write a complete run; `changes` are of its record."""
    history = history or training_history()
    kind = changes.get("kind", "cnn-lstm")
    config = TrainConfig.model_validate({"kind": kind, "train": {"num_epochs": 10}})
    store = begin_training(folder, config)
    write_history(store, history)
    training = Training(
        output=store.uri,
        dataset="/prepared/scenes",
        kind=kind,
        end="exhausted",
        num_images=640,
        num_epochs=len(history),
        num_steps=history[-1].num_steps,
        global_batch=32,
        micro_batch=16,
        metric="cider_d",
        best=next(record for record in reversed(history) if record.is_best),
        last=history[-1],
        history=history,
        overfits_since=history[-1].overfits_since,
        images_per_s=812.5,
        wall_s=61.0,
        versions={"raycap": "0.1.0", "torch": "2.9.0"},
        finished_at=FINISHED_AT,
    )
    write_training(store, replace(training, **changes))
    return store.uri


def write_non_finite(store: Store, suspects: list[str]) -> None:
    """Write which images came with a loss that was no number."""
    found = {"epoch": 3, "step": 4, "image_ids": ["a", "b", *suspects], "suspects": suspects}
    store.write(NON_FINITE, encode_json(found))


def trials_of(num_lengths: int = 8) -> list[ScoredSetting]:
    """Tell of settings that ask for ever longer captions, twice: blocking repetition or not."""
    trials = []
    for ngram in (0, 3):
        for number in range(num_lengths):
            gap = -10.0 + 11.5 * number / (num_lengths - 1)
            generation = GenerationConfig(
                min_new_tokens=2 * number, max_new_tokens=30, no_repeat_ngram_size=ngram
            )
            trials.append(
                ScoredSetting(
                    generation=generation,
                    cider_d=0.8 + 0.5 * math.exp(-((gap + 2) ** 2) / 18) + 0.01 * ngram,
                    bleu_4=0.2 + 0.01 * number,
                    mean_length=REFERENCE_TOKENS + gap,
                    length_gap=gap,
                    repetition=0.01 * number,
                    longest_repeat=2,
                )
            )
    return trials


def write_calibration_sample(folder: Path, **changes: Any) -> Calibration:
    """Write what a calibration left; `changes` are of its record."""
    trials = trials_of()
    config = CalibrateConfig()
    lengths = ReferenceLengths(metric_tokens=REFERENCE_TOKENS, model_tokens=19.0)
    calibration = Calibration(
        output=str(folder),
        model={"kind": "blip", "name": "someone/blip"},
        dataset={"source": "/data/scenes", "num_images": 800},
        split="validation",
        images=SliceRecord(
            num_images=500, num_unreadable=0, digest="d1", num_references=2500, lengths=lengths
        ),
        tokenizer="raycap-1",
        start=trials[0],
        chosen=choose(trials, config),
        trials=trials,
        max_cider_loss=config.max_cider_loss,
        closed_gap=config.closed_gap,
        config=config.model_dump(mode="json"),
        wall_s=12.5,
        versions={"raycap": "0.1.0"},
        created_at=FINISHED_AT,
    )
    calibration = replace(calibration, **changes)
    write_calibration(open_store(str(folder), StorageConfig()), calibration)
    return calibration
