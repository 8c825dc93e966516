"""The passes of an evaluation over its matched images, chunk by chunk.

Images are scored by CLIP where that is asked for; then the references are tokenized and their
n-grams counted, training captions are hashed, and last everything else is scored and written. What
stays in memory is some hundred bytes an image and system, and 12 bytes a different n-gram.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt64

from raycap import schema
from raycap.cluster.start import ray_cluster
from raycap.config import EvaluateConfig, ExternalMetricsConfig, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.references import References
from raycap.datasets.splits import TRAIN
from raycap.evaluation.captions import Captions
from raycap.evaluation.chunks import IS_SCORED, column, keep_tokens, read_chunks
from raycap.evaluation.clip import ClipColumns, ClipSpec, clip_columns, clip_spec
from raycap.evaluation.matching import Match, MissingPolicy
from raycap.evaluation.meteor import meteor_missing
from raycap.evaluation.score_file import ScoreFiles
from raycap.evaluation.scoring import ScoredChunk, ScoringSpec, SystemScores, tokenizer_name
from raycap.evaluation.spice import spice_missing
from raycap.evaluation.sums import SystemSums
from raycap.evaluation.workers import Workers, open_workers
from raycap.metrics.diversity import DiversityCounts, merge_diversity, merge_hashes
from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from raycap.progress import OnProgress, Progress

_CHUNK_IMAGES = 4_096
_CLIP_CHUNK_IMAGES = 512
_MERGED_AT_A_TIME = 16
"""Chunks whose counts are merged at once: many small copies less, and little memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is scored, and by what; known before anything is read."""

    scoring: ScoringSpec
    tokenizer: str
    """Its name in results."""
    clip: ClipSpec | None
    skipped: dict[str, str]
    """Metrics that are not to be had, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Systems and references in the scratch database, joined and settled."""

    database: duckdb.DuckDBPyConnection
    systems: Sequence[Captions]
    matches: Sequence[Match]
    """Of each system."""
    references: References
    splits: Sequence[str]
    """By their known names; empty: all."""
    missing: MissingPolicy
    num_rows: int
    """Images of the references."""
    num_scored: int
    on_progress: OnProgress

    def chunks(self, num_rows: int, stage: str) -> Iterator[pa.Table]:
        """Begin a pass over all images, so many at a time, and tell how far it is.

        Args:
            num_rows: images of a chunk; see `chunks.read_chunks`.
            stage: what the pass is for.
        """
        started = time.monotonic()
        num_done = 0
        for chunk in read_chunks(self.database, len(self.systems), num_rows):
            yield chunk
            num_done += len(chunk)
            self.on_progress(
                Progress(
                    num_done=num_done,
                    num_total=self.num_rows,
                    num_failed=0,
                    images_per_s=num_done / max(1e-9, time.monotonic() - started),
                    stage=stage,
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassesFound:
    """What the passes found."""

    reference_lengths: Counter[int]
    reference_sums: Int64[np.ndarray, "images 2"]
    """Of each scored image, the tokens of its references and their number."""
    sums: list[SystemSums]
    """Of each system, and so on."""
    diversity: list[DiversityCounts]
    mean_logprobs: list[float | None]
    skipped: list[dict[str, str]]
    tells_copies: bool
    """Whether copies of training captions were counted."""


def plan_passes(config: EvaluateConfig, references: References, num_systems: int) -> Plan:
    """Find out which metrics can be had.

    Raises:
        ConfigError: the tokenizer cannot run here.
        ModelError: the CLIP cannot be found.
    """
    external = config.external
    skipped = _skipped(external)
    return Plan(
        scoring=ScoringSpec(
            num_systems=num_systems,
            tokenizer=config.tokenizer,
            meteor=schema.METEOR not in skipped,
            spice_jars=None if schema.SPICE in skipped else external.spice_jars,
        ),
        tokenizer=tokenizer_name(config.tokenizer),
        clip=clip_spec(config, references),
        skipped=skipped,
    )


def run_passes(
    matched: Matched,
    plan: Plan,
    config: EvaluateConfig,
    files: ScoreFiles,
    *,
    debug: bool,
) -> PassesFound:
    """Go through all images, and write their scores.

    Raises:
        RaycapError: as `evaluate`.
    """
    is_spread = matched.num_rows * len(matched.systems) >= config.spread_images
    num_chunks = -(-matched.num_rows // _CHUNK_IMAGES)
    with ExitStack() as opened:
        if is_spread:
            opened.enter_context(ray_cluster(debug=debug))
        # First, as its workers would wait for ever for CPUs that the others hold.
        clips = _score_by_clip(matched, plan.clip, is_spread=is_spread)
        workers = opened.enter_context(
            open_workers(plan.scoring, num_chunks=num_chunks, is_spread=is_spread)
        )
        frequencies, lengths = _count(matched, workers)
        training = _hash_training(matched, workers, config.storage)
        scoring = _Scoring(clips, files)
        chunks = matched.chunks(_CHUNK_IMAGES, "scoring")
        for chunk, scored in workers.run("score", chunks, frequencies, training):
            scoring.take(chunk, scored)
    return PassesFound(
        reference_lengths=lengths,
        reference_sums=np.concatenate(scoring.reference_sums),
        sums=[
            SystemSums.of(chunks, clip) for chunks, clip in zip(scoring.scores, clips, strict=True)
        ],
        diversity=[merge_diversity([c.diversity for c in chunks]) for chunks in scoring.scores],
        mean_logprobs=list(map(_mean, scoring.logprobs)),
        skipped=[plan.skipped | _failed(chunks) for chunks in scoring.scores],
        tells_copies=training is not None,
    )


class _Scoring:
    """Takes scored chunks in, one after the other."""

    def __init__(self, clips: list[ClipColumns], files: ScoreFiles) -> None:
        self._clips = clips
        self._files = files
        self._num_scored = 0
        self.reference_sums: list[Int64[np.ndarray, "images 2"]] = []
        self.scores: list[list[SystemScores]] = [[] for _ in clips]
        self.logprobs: list[list[float]] = [[] for _ in clips]

    def take(self, chunk: pa.Table, scored: ScoredChunk) -> None:
        """Write a chunk's scores, and keep what the corpus's are made of."""
        is_scored = chunk[IS_SCORED].to_pylist()
        rows = slice(self._num_scored, self._num_scored + sum(is_scored))
        self._num_scored = rows.stop
        shares = [{name: scores[rows] for name, scores in clip.items()} for clip in self._clips]
        self._files.write(chunk, scored, shares)
        pairs = zip(scored.reference_tokens, is_scored, strict=True)
        sums = [(sum(tokens), len(tokens)) for tokens, yes in pairs if yes]
        self.reference_sums.append(np.array(sums, np.int64).reshape(-1, 2))
        only = chunk.filter(chunk[IS_SCORED])
        for number, scores in enumerate(scored.systems):
            self.scores[number].append(scores)
            values = only[column(schema.LOGPROB, number)].drop_null()
            self.logprobs[number] += values.cast(pa.float64()).to_pylist()


def _skipped(external: ExternalMetricsConfig) -> dict[str, str]:
    """Say which metrics are not to be had, and why."""
    no_clip = None if external.clip_model else "no external.clip_model is named"
    reasons = {
        schema.METEOR: meteor_missing() if external.meteor else "external.meteor is off",
        schema.SPICE: spice_missing(external.spice_jars),
        schema.CLIP_SCORE: no_clip,
        schema.REF_CLIP_SCORE: no_clip,
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _failed(chunks: Sequence[SystemScores]) -> dict[str, str]:
    """Say which metrics failed on some chunk of a system, and why."""
    return {name: reason for chunk in chunks for name, reason in chunk.skipped.items()}


def _score_by_clip(
    matched: Matched, spec: ClipSpec | None, *, is_spread: bool
) -> list[ClipColumns]:
    """Score every system by CLIP; without one, there are no columns."""
    if spec is None:
        return [{} for _ in matched.systems]
    chunks = [
        matched.chunks(_CLIP_CHUNK_IMAGES, f"CLIPScore of {system.name}")
        for system in matched.systems
    ]
    return clip_columns(spec, chunks, is_spread=is_spread)


def _count(matched: Matched, workers: Workers) -> tuple[DocumentFrequencies, Counter[int]]:
    """Tokenize the references, and count their n-grams and lengths."""
    merged: list[DocumentFrequencies] = []
    lengths: Counter[int] = Counter()
    for chunk, counted in workers.run("count", matched.chunks(_CHUNK_IMAGES, "references")):
        keep_tokens(matched.database, chunk, counted.tokens)
        merged.append(counted.frequencies)
        lengths += counted.lengths
        if len(merged) == _MERGED_AT_A_TIME:
            merged = [merge_frequencies(merged)]
    return merge_frequencies(merged), lengths


def _hash_training(
    matched: Matched, workers: Workers, storage: StorageConfig
) -> UInt64[np.ndarray, " training"] | None:
    """Hash the training captions; None where there are none, or they are what is evaluated."""
    splits = matched.splits
    if not matched.references.is_dataset or not splits or TRAIN in splits:
        return None
    dataset = open_dataset(matched.references.source, storage)
    if TRAIN not in dataset.splits:
        return None
    pages = dataset.pages([TRAIN], [schema.CAPTIONS_LIST])
    captions = (pc.list_flatten(page[schema.CAPTIONS_LIST]).to_pylist() for page in pages)
    hashed = [hashes for _, hashes in workers.run("hash_captions", captions)]
    return merge_hashes(hashed)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
