"""Outputs of studies for reports, written by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycap.config import StorageConfig
from raycap.results.study import STUDY, Study, read_study
from raycap.runs.records import encode_json
from raycap.storage.stores import open_store
from tests.support.training_samples import FINISHED_AT

STARTED_AT = "2026-11-24T06:00:00+00:00"
PEOPLE_WORDS, PEOPLE_TOKENS = 17.4, 17.6
TRAINED = ("cnn-lstm", "transformer", "hybrid", "blip-finetuned")
SUBSETS = (0.1, 0.25, 0.5, 1.0)
NUM_TRAINING_IMAGES = 8000


def scores_of(words: float, cider_d: float, **others: float) -> dict[str, Any]:
    """Give the scores of a system, with the intervals that an evaluation has."""
    gap = words - PEOPLE_WORDS
    others.setdefault("meteor", 0.2 + 0.1 * cider_d)
    values = {f"bleu_{n}": 0.75 - 0.14 * n + 0.05 * cider_d for n in range(1, 5)}
    values |= {"rouge_l": 0.3 + 0.2 * cider_d, "cider_d": cider_d, "length_gap": gap} | others
    found = {
        name: {"value": value, "low": value - 0.03, "high": value + 0.028}
        for name, value in values.items()
    }
    bare = {"mean_tokens": words + 0.2, "mean_words": words, "distinct_2": 0.4, "repetition": 0.01}
    return found | {
        name: {"value": value, "low": None, "high": None} for name, value in bare.items()
    }


def training_of(subset: float, gap: float, **changes: Any) -> dict[str, Any]:
    """Tell what training on a share of the images came to."""
    return {
        "num_images": round(NUM_TRAINING_IMAGES * subset),
        "num_epochs": 12,
        "best_epoch": 9,
        "train_loss": 2.0,
        "fitted_loss": 1.9 - 0.2 * subset,
        "validation_loss": 1.9 - 0.2 * subset + gap,
        "gap": gap,
        "last_gap": gap + 0.1,
        "overfits_since": None,
        "images_per_s": 143.2,
        "wall_s": 5400.0 * subset,
        "peak_memory_bytes": 2_431_000_000,
        "peak_device_bytes": 0,
    } | changes


def system(name: str, role: str, words: float, cider_d: float, **changes: Any) -> dict[str, Any]:
    """Tell of a system that finished."""
    return {
        "name": name,
        "role": role,
        "subset": 1.0,
        "is_augmented": True,
        "is_main": True,
        "status": "finished",
        "reason": "",
        "training": None,
        "calibration": None,
        "captioning_images_per_s": 38.25,
        "captioning_wall_s": 26.1,
        "num_failed": 0,
        "scores": scores_of(words, cider_d),
        "output": f"/studies/one/systems/{name}",
    } | changes


def unscored(name: str, role: str, status: str, **changes: Any) -> dict[str, Any]:
    """Tell of a system that is not over, or failed."""
    bare = {"scores": {}, "captioning_images_per_s": 0.0, "captioning_wall_s": 0.0}
    return system(name, role, 0.0, 0.0) | bare | {"status": status} | changes


def trained_systems(
    roles: Sequence[str] = TRAINED, subsets: Sequence[float] = SUBSETS
) -> list[dict[str, Any]]:
    """Tell of kinds of system trained on each subset, and without augmentation on all images."""
    systems = []
    for place, role in enumerate(roles):
        for subset in subsets:
            is_main = subset == 1.0
            name = role if is_main else f"{role}-{100 * subset:g}"
            cider_d = (0.42 + 0.13 * place) * subset**0.18
            words = 15.1 + 0.6 * place + subset
            gap = 0.22 + 0.3 * (1 - subset) + 0.04 * place
            late = 7 if gap > 0.5 else None
            made = training_of(subset, gap, overfits_since=late)
            if role == "blip-finetuned":
                made["peak_device_bytes"] = 17_412_000_000
            found = {"subset": subset, "is_main": is_main, "training": made}
            systems.append(system(name, role, words, cider_d, **found))
        worse = training_of(1.0, 0.61 + 0.03 * place, overfits_since=6)
        plain = {"is_augmented": False, "is_main": False, "training": worse}
        systems.append(system(f"{role}-plain", role, 15.0, 0.37 + 0.13 * place, **plain))
    return systems


def pretrained() -> dict[str, Any]:
    """Tell of the BLIP that writes half of what people write."""
    return system("blip-pretrained", "blip-pretrained", 7.7, 0.361)


def calibrated() -> dict[str, Any]:
    """Tell of the same BLIP, calibrated."""
    made = {"gap_before": -9.81, "gap_after": -0.4, "cider_before": 0.36, "cider_after": 0.58}
    found = {"calibration": made | {"wall_s": 610.0}}
    return system("blip-calibrated", "blip-calibrated", 16.9, 0.566, **found)


def all_systems() -> list[dict[str, Any]]:
    """Tell of everything that a whole study compares."""
    trained = trained_systems()
    from_scratch = [item for item in trained if item["role"] != "blip-finetuned"]
    tuned = [item for item in trained if item["role"] == "blip-finetuned"]
    return [*from_scratch, pretrained(), calibrated(), *tuned]


def study_content(systems: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """Give the content of `study.json`."""
    systems = all_systems() if systems is None else systems
    scored = [it for it in systems if it["is_main"] and "cider_d" in it["scores"]]
    ranked = sorted(scored, key=lambda it: it["scores"]["cider_d"]["value"])
    return {
        "output": "/studies/one",
        "dataset": "/prepared/scenes",
        "split": "test",
        "num_images": 1000,
        "reference_mean_tokens": PEOPLE_TOKENS,
        "reference_mean_words": PEOPLE_WORDS,
        "systems": systems,
        "best": ranked[-1]["name"] if ranked else None,
        "decision": [
            "Take blip-finetuned: its CIDEr-D of 0.810 is the best, and the test tells it apart.",
            "Out of the box BLIP writes 9.7 words less than people; calibrating closes the gap.",
        ],
        "end": "finished",
        "wall_s": 21600.0,
        "started_at": STARTED_AT,
        "finished_at": FINISHED_AT,
        "config": {"study": {"max_concurrent": 2}, "pretrained": "Salesforce/blip"},
        "versions": {"raycap": "0.1.0"},
    } | changes


def write_study_sample(
    folder: Path, systems: list[dict[str, Any]] | None = None, **changes: Any
) -> str:
    """Write a study's record beside a `run.json`, as `raycap study` leaves them."""
    store = open_store(str(folder), StorageConfig())
    store.write(
        "run.json", encode_json({"fingerprint": {"command": "study", "pretrained": "demo"}})
    )
    store.write(STUDY, encode_json(study_content(systems, **changes)))
    return store.uri


def study_of(folder: Path, systems: list[dict[str, Any]] | None = None, **changes: Any) -> Study:
    """Write a study and read it again."""
    return read_study(open_store(write_study_sample(folder, systems, **changes), StorageConfig()))
