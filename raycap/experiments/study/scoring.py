"""Scores of the systems' captions: two evaluations, and their figures per system."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.parts import CAPTIONS, read_part
from raycap.config import MissingPolicy, StudyConfig
from raycap.datasets.dataset import CaptionDataset
from raycap.datasets.splits import TEST
from raycap.evaluation.evaluate import evaluate
from raycap.experiments.study.planning import EVALUATION, GROWTH, SYSTEMS
from raycap.progress import OnProgress
from raycap.results.evaluation import Evaluation, System
from raycap.results.labels import DIFFERENT_CAPTIONS, LENGTH_GAP
from raycap.results.study import Score, SystemRecord
from raycap.storage.parts import list_parts
from raycap.storage.stores import open_store
from raycap.text import count_words


def score_systems(
    systems: Sequence[SystemRecord],
    dataset: CaptionDataset,
    output: Path,
    config: StudyConfig,
    on_progress: OnProgress,
    *,
    debug: bool,
) -> tuple[list[SystemRecord], Evaluation | None]:
    """Score all systems on the same images; an image without a caption scores 0.

    One evaluation compares the main systems with each other; a second one scores the others.

    Returns:
        The systems with their scores, and the evaluation of the main systems; None without any.
    """
    scored: dict[str, SystemRecord] = {}
    main_evaluation = None
    for is_main, place in ((True, EVALUATION), (False, GROWTH)):
        chosen = [system for system in systems if system.is_main is is_main]
        if not chosen:
            continue
        found = evaluate(
            [f"{it.name}={output / SYSTEMS.folder_of(it.name) / 'captions'}" for it in chosen],
            dataset.store.uri,
            output=output / place,
            missing=MissingPolicy.WORST,
            split=TEST,
            config=config.evaluation.model_copy(update={"storage": config.storage}),
            on_progress=on_progress,
            debug=debug,
        )
        if is_main:
            main_evaluation = found
        by_name = {system.name: system for system in found.systems}
        for it in chosen:
            words = _mean_words(output / SYSTEMS.folder_of(it.name) / "captions", config)
            scored[it.name] = replace(it, scores=_scores(by_name[it.name], words))
    return [scored[system.name] for system in systems], main_evaluation


def reference_words(dataset: CaptionDataset) -> float:
    """Return the mean number of words per reference of the test split."""
    counts = [
        count_words(caption)
        for page in dataset.pages([TEST], [schema.CAPTIONS_LIST])
        for captions in page[schema.CAPTIONS_LIST].to_pylist()
        for caption in captions
    ]
    return sum(counts) / max(1, len(counts))


def _mean_words(captions: Path, config: StudyConfig) -> float:
    """Return the mean number of words per caption of an output."""
    store = open_store(str(captions), config.storage)
    total = count = 0
    for part in list_parts(store, CAPTIONS):
        words = read_part(store, CAPTIONS, part)[schema.NUM_WORDS]
        total += pc.sum(words).as_py() or 0
        count += len(words) - words.null_count
    return total / max(1, count)


def _scores(system: System, mean_words: float) -> dict[str, Score]:
    scores = {
        metric.name: Score(value=metric.value, low=metric.low, high=metric.high)
        for metric in system.metrics
        if metric.value is not None
    }
    gap = system.length_gap
    scores[LENGTH_GAP] = Score(value=gap.difference, low=gap.low, high=gap.high)
    scores["mean_tokens"] = Score(value=system.lengths.mean)
    scores["mean_words"] = Score(value=mean_words)
    scores["distinct_2"] = Score(value=system.diversity.distinct_2)
    scores["repetition"] = Score(value=system.diversity.repetition)
    scores[DIFFERENT_CAPTIONS] = Score(value=float(system.diversity.num_different_captions))
    return scores
