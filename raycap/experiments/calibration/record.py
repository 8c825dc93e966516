"""Claim of an output by a calibration: the fingerprint of its trials."""

from typing import Any

from raycap.config import CalibrateConfig
from raycap.models.base import ModelSource

LOCK = "lock.json"
REMEDY = "finished settings are kept: run the same command to continue"
"""What a person does where the cluster failed."""


def fingerprint(
    dataset: dict[str, Any], model: ModelSource, config: CalibrateConfig
) -> dict[str, Any]:
    """Say what decides a trial: two calibrations alike in this may share their trials.

    Which settings are tried, and by what the best of them is chosen, does not.
    """
    return {
        "dataset": dataset,
        "split": config.split,
        "num_images": config.num_images,
        "model": {**model.identity(), **config.model.arithmetic()},
        "generation": config.generation.model_dump(mode="json"),
        "image": config.image.model_dump(mode="json"),
    }
