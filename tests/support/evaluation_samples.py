"""Captions and references of made-up images, written as files; and evaluations of them."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.config import EvaluateConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.evaluation.evaluate import evaluate
from raycap.results.evaluation import Evaluation
from raycap.storage.stores import open_store

NUM_REFERENCES = 3
N_GRAM_METRICS = [*schema.BLEU, schema.ROUGE_L, schema.CIDER_D]

_WORDS = (
    *("a", "the", "two", "cat", "dog", "man", "red", "blue", "old", "runs", "sits", "on", "near"),
    *("under", "grass", "chair", ",", ".", "it's"),
)


def sentences(count: int, seed: int) -> list[str]:
    """Draw sentences that share many words, of 2 to 12 of them."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(_WORDS, k=rng.randint(2, 12))) for _ in range(count)]


def image_names(count: int) -> list[str]:
    """Give the ids of images, in their order."""
    return [f"{number:05d}.jpg" for number in range(count)]


def write_captions(path: Path, captions: Sequence[str | None], **more: Sequence[Any]) -> str:
    """Write a system's captions of the first images as JSON Lines; give the address."""
    names = image_names(len(captions))
    columns = {schema.IMAGE_ID: names, schema.CAPTION: captions, **more}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def write_references(path: Path, references: Sequence[Sequence[str]]) -> str:
    """Write references of the first images as JSON Lines; give the address."""
    rows = zip(image_names(len(references)), references, strict=True)
    lines = [json.dumps({"file_name": name, "captions": list(texts)}) for name, texts in rows]
    path.write_text("\n".join(lines))
    return str(path)


def write_corpus(folder: Path, num_images: int, num_systems: int = 1) -> tuple[list[str], str]:
    """Write systems and references; give their addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = iter(sentences(num_images * NUM_REFERENCES, seed=0))
    references = [[next(texts) for _ in range(NUM_REFERENCES)] for _ in range(num_images)]
    systems = [
        write_captions(
            folder / f"system-{number}.jsonl",
            sentences(num_images, seed=1 + number),
            logprob=[-0.25 * (1 + at % (3 + number)) for at in range(num_images)],
        )
        for number in range(num_systems)
    ]
    return systems, write_references(folder / "references.jsonl", references)


def run(
    captions: str | Sequence[str | Path],
    references: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> Evaluation:
    """Evaluate, with fewer resamples, and without METEOR where `settings` do not ask for it."""
    chosen = {"external": {"meteor": False}, "bootstrap": {"num_resamples": 50}}
    config = validate_config(EvaluateConfig, chosen | (settings or {}))
    return evaluate(captions, references, config=config, **arguments)


def without_time(found: Evaluation) -> Evaluation:
    """Leave out what differs from run to run."""
    return replace(found, wall_s=0.0, created_at="")


def values_of(found: Evaluation, system: int = 0) -> dict[str, float]:
    """Give a system's metrics that have a value."""
    metrics = found.systems[system].metrics
    return {metric.name: metric.value for metric in metrics if metric.value is not None}


def skipped_of(found: Evaluation, system: int = 0) -> dict[str, str]:
    """Give the reasons for a system's metrics that have none."""
    metrics = found.systems[system].metrics
    return {metric.name: metric.skipped for metric in metrics if metric.skipped is not None}


def scores_of(output: str | Path, system: int = 0) -> pa.Table:
    """Read a system's per-image scores."""
    store = open_store(str(output), StorageConfig())
    return pq.read_table(pa.BufferReader(store.read(f"scores/part-{system:03d}.parquet")))
