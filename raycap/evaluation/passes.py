"""The passes of an evaluation over its matched images, chunk by chunk.

First, images are scored by CLIP if one is given. Then the references are tokenized and their
n-grams counted, training captions are hashed, and finally everything else is scored, and the scores
of each image written. Memory holds some hundred bytes per image and system, and 12 bytes per
different n-gram.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt64

from raycap import schema
from raycap.cluster.start import ray_cluster
from raycap.config import EvaluateConfig, ExternalMetricsConfig, MissingPolicy, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.references import References
from raycap.datasets.splits import TRAIN
from raycap.evaluation.captions import Captions
from raycap.evaluation.clip import ClipColumns, ClipFound, ClipSpec, clip_columns, clip_spec
from raycap.evaluation.matching import (
    IS_SCORED,
    Match,
    column,
    keep_tokens,
    read_chunks,
)
from raycap.evaluation.registry import METRICS
from raycap.evaluation.registry import SCORES as SCORE_COLUMNS
from raycap.evaluation.scoring import (
    ScoredChunk,
    ScoringSpec,
    SystemScores,
    Workers,
    open_workers,
    tokenizer_name,
)
from raycap.evaluation.sums import SystemSums
from raycap.metrics.diversity import DiversityCounts, merge_diversity, merge_hashes
from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from raycap.progress import OnProgress, Progress
from raycap.results.evaluation import SCORES
from raycap.storage.address import redact
from raycap.storage.base import KEY, Store

_SCORE_KEY = re.compile(rf"{re.escape(SCORES)}part-\d{{3,}}\.parquet")
_CHUNK_IMAGES = 4_096
_CLIP_CHUNK_IMAGES = 512
_MERGED_AT_A_TIME = 16
"""Chunks whose counts are merged at once: fewer copies, and little memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """Which metrics run, and how; known before anything is read."""

    scoring: ScoringSpec
    tokenizer: str
    """Its name in results."""
    clip: ClipSpec | None
    skipped: dict[str, str]
    """Scores that cannot be computed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Systems and references in the scratch database, joined."""

    database: duckdb.DuckDBPyConnection
    systems: Sequence[Captions]
    matches: Sequence[Match]
    """Of each system."""
    references: References
    splits: Sequence[str]
    """By their known names; empty: all."""
    missing: MissingPolicy
    num_rows: int
    """Number of images of the references."""
    num_scored: int
    on_progress: OnProgress

    def chunks(self, num_rows: int, stage: str) -> Iterator[pa.Table]:
        """Iterate over all images in chunks, and report progress.

        Args:
            num_rows: images per chunk; see `matching.read_chunks`.
            stage: name of the pass.
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
    """Results of the passes."""

    reference_lengths: Counter[int]
    reference_sums: Int64[np.ndarray, "images 2"]
    """Of each scored image, the tokens in its references and the number of these."""
    sums: list[SystemSums]
    """Of each system, and so on."""
    diversity: list[DiversityCounts]
    mean_logprobs: list[float | None]
    skipped: list[dict[str, str]]
    clip_unscored: list[Counter[str]]
    """Captioned images without a CLIPScore, by error code."""
    num_unsplit: list[int]
    """Captions that the tokenizer cannot split into words."""
    num_unsplit_references: int
    counts_copies: bool
    """Whether copies of training captions were counted."""


def score_key(system: int) -> str:
    """Return the key of a system's file, relative to the evaluation."""
    return f"{SCORES}part-{system:03d}.parquet"


class ScoreFiles:
    """Writes the scores of all systems; see `score_files`."""

    def __init__(self, writers: Sequence[pq.ParquetWriter]) -> None:
        self._writers = writers

    def write(self, chunk: pa.Table, scored: ScoredChunk, clips: Sequence[ClipColumns]) -> None:
        """Write a chunk.

        Args:
            chunk: as `matching.read_chunks` yields it.
            scored: its scores.
            clips: the CLIPScores of each system on the chunk; empty without a CLIP.
        """
        for number, writer in enumerate(self._writers):
            table = scores_table(chunk, number, scored, clips[number])
            writer.write_table(table, row_group_size=len(table))


@contextmanager
def score_files(store: Store | None, num_systems: int) -> Iterator[ScoreFiles]:
    """Replace the scores of an evaluation after the block has succeeded; without a store, none."""
    if store is None:
        yield ScoreFiles([])
        return
    with TemporaryDirectory(prefix="raycap-scores-") as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(num_systems)]
        with ExitStack() as opened:
            writers = [
                opened.enter_context(pq.ParquetWriter(path, SCORE_COLUMNS, compression="zstd"))
                for path in paths
            ]
            yield ScoreFiles(writers)
        for key in _written_before(store):
            store.delete(key)
        for number, path in enumerate(paths):
            store.upload(score_key(number), path)


def _written_before(store: Store) -> list[str]:
    """List the files of scores of an earlier evaluation, and no other files."""
    keys = [key for page in store.list(SCORES) for key in page[KEY].to_pylist()]
    return [key for key in keys if _SCORE_KEY.fullmatch(key)]


def scores_table(chunk: pa.Table, system: int, scored: ScoredChunk, clip: ClipColumns) -> pa.Table:
    """Return the scores of one system: one row per image of the chunk, scored or not."""
    found = scored.systems[system]
    places = np.flatnonzero(chunk[IS_SCORED].to_numpy())
    captions = chunk[column(schema.CAPTION, system)]
    lengths = np.where(found.has_caption, found.lengths, -1)
    num_tokens = _spread(lengths.astype(np.float64), places, len(chunk))
    columns: dict[str, Any] = {
        schema.IMAGE_ID: chunk[schema.IMAGE_ID],
        schema.URI: pa.array(
            [uri and redact(uri) for uri in chunk[column(schema.URI, system)].to_pylist()],
            pa.string(),
        ),
        **{name: chunk[column(name, system)] for name in (schema.STATUS, schema.ERROR_CODE)},
        schema.CAPTION: captions,
        schema.LOGPROB: chunk[column(schema.LOGPROB, system)],
        schema.REFERENCE_CAPTIONS: chunk[schema.REFERENCE_CAPTIONS],
        schema.NUM_TOKENS: pa.array(num_tokens, mask=~(num_tokens >= 0)).cast(
            pa.int32(), safe=False
        ),
        schema.REFERENCE_TOKENS: pa.array(scored.reference_tokens, pa.list_(pa.int32())),
    }
    scores: dict[str, np.ndarray] = dict(clip)
    for metric in METRICS:
        if metric.name in found.statistics:
            scores |= metric.of_images(found.statistics[metric.name])
    for name in SCORE_COLUMNS.names:
        if name not in columns:
            values = scores.get(name, np.full(len(places), np.nan))
            spread = _spread(values, places, len(chunk))
            columns[name] = pa.array(spread, mask=np.isnan(spread))
    ordered = [columns[name] for name in SCORE_COLUMNS.names]
    return pa.Table.from_arrays(ordered, names=SCORE_COLUMNS.names).cast(SCORE_COLUMNS)


def _spread(values: np.ndarray, places: np.ndarray, num_rows: int) -> np.ndarray:
    """Place the values of scored images among all rows; NaN elsewhere."""
    found = np.full(num_rows, np.nan)
    found[places] = values
    return found


def plan_passes(config: EvaluateConfig, references: References, num_systems: int) -> ScoringPlan:
    """Determine which metrics can run.

    Raises:
        ConfigError: the tokenizer cannot run here.
        ModelError: the CLIP cannot be found.
    """
    external = config.external
    skipped = _skipped(external)
    return ScoringPlan(
        scoring=ScoringSpec(
            num_systems=num_systems,
            tokenizer=config.tokenizer,
            metrics=tuple(metric.name for metric in METRICS if metric.name not in skipped),
            external=external,
        ),
        tokenizer=tokenizer_name(config.tokenizer),
        clip=clip_spec(config, references),
        skipped=skipped,
    )


def run_passes(
    matched: Matched,
    plan: ScoringPlan,
    config: EvaluateConfig,
    files: ScoreFiles,
    *,
    debug: bool,
) -> PassesFound:
    """Score all images, and write their scores.

    Raises:
        RaycapError: as `evaluate`.
    """
    is_spread = matched.num_rows * len(matched.systems) >= config.spread_images
    num_chunks = -(-matched.num_rows // _CHUNK_IMAGES)
    with ExitStack() as opened:
        if is_spread:
            opened.enter_context(ray_cluster(debug=debug))
        # First: its workers would wait forever for CPUs that the other workers hold.
        clip = _score_by_clip(matched, plan.clip, is_spread=is_spread)
        clips = [found.columns for found in clip]
        workers = opened.enter_context(
            open_workers(plan.scoring, num_chunks=num_chunks, is_spread=is_spread)
        )
        frequencies, lengths, num_unsplit = _count(matched, workers)
        training = _hash_training(matched, workers, config.storage)
        scoring = _Scoring(clips, files)
        chunks = matched.chunks(_CHUNK_IMAGES, "scoring")
        for chunk, scored in workers.run("score", chunks, frequencies, training):
            scoring.take(chunk, scored)
    return PassesFound(
        reference_lengths=lengths,
        reference_sums=np.concatenate(scoring.reference_sums),
        sums=[
            SystemSums.of(chunks, columns)
            for chunks, columns in zip(scoring.scores, clips, strict=True)
        ],
        diversity=[merge_diversity([c.diversity for c in chunks]) for chunks in scoring.scores],
        mean_logprobs=list(map(_mean, scoring.logprobs)),
        skipped=[
            plan.skipped | _weightless(frequencies) | _failed(chunks) for chunks in scoring.scores
        ],
        clip_unscored=[found.unscored for found in clip],
        num_unsplit=[sum(chunk.num_unsplit for chunk in chunks) for chunks in scoring.scores],
        num_unsplit_references=num_unsplit,
        counts_copies=training is not None,
    )


class _Scoring:
    """Collects scored chunks in order."""

    def __init__(self, clips: list[ClipColumns], files: ScoreFiles) -> None:
        self._clips = clips
        self._files = files
        self._num_scored = 0
        self.reference_sums: list[Int64[np.ndarray, "images 2"]] = []
        self.scores: list[list[SystemScores]] = [[] for _ in clips]
        self.logprobs: list[list[float]] = [[] for _ in clips]

    def take(self, chunk: pa.Table, scored: ScoredChunk) -> None:
        """Write a chunk's scores, and keep the statistics of the corpus."""
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
    """Return the scores that cannot be computed here, and why."""
    return {
        name: reason
        for metric in METRICS
        if (reason := metric.why_skipped(external)) is not None
        for name in metric.columns
    }


def _failed(chunks: Sequence[SystemScores]) -> dict[str, str]:
    """Return the scores that failed on a chunk of a system, and why."""
    return {name: reason for chunk in chunks for name, reason in chunk.skipped.items()}


def _weightless(frequencies: DocumentFrequencies) -> dict[str, str]:
    """Return why CIDEr-D has no value if it would be 0 for every caption."""
    if frequencies.tells_images_apart:
        return {}
    found = "there is one image" if frequencies.num_images == 1 else "all images have the same ones"
    return {
        schema.CIDER_D: "it weighs words by how few images have them in their references, and "
        f"{found}"
    }


def _score_by_clip(matched: Matched, spec: ClipSpec | None, *, is_spread: bool) -> list[ClipFound]:
    """Score every system by CLIP; without a CLIP, there are no columns."""
    if spec is None:
        return [ClipFound() for _ in matched.systems]
    chunks = [
        matched.chunks(_CLIP_CHUNK_IMAGES, f"CLIPScore of {system.name}")
        for system in matched.systems
    ]
    return clip_columns(spec, chunks, is_spread=is_spread)


def _count(matched: Matched, workers: Workers) -> tuple[DocumentFrequencies, Counter[int], int]:
    """Tokenize the references; count their n-grams, lengths, and those that cannot be split."""
    merged: list[DocumentFrequencies] = []
    lengths: Counter[int] = Counter()
    num_unsplit = 0
    for chunk, counted in workers.run("count", matched.chunks(_CHUNK_IMAGES, "references")):
        keep_tokens(matched.database, chunk, counted.tokens)
        merged.append(counted.frequencies)
        lengths += counted.lengths
        num_unsplit += counted.num_unsplit
        if len(merged) == _MERGED_AT_A_TIME:
            merged = [merge_frequencies(merged)]
    return merge_frequencies(merged), lengths, num_unsplit


def _hash_training(
    matched: Matched, workers: Workers, storage: StorageConfig
) -> UInt64[np.ndarray, " training"] | None:
    """Hash the training captions; None if there are none, or if they are evaluated themselves."""
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
