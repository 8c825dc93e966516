"""The passes of an evaluation over its matched images, chunk by chunk.

First the references' n-grams are counted, then training captions are hashed, then images are
scored by CLIP where that is asked for, and last everything else is scored and written. What stays
in memory is some hundred bytes an image and system.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt64

from raycap import schema
from raycap.config import EvaluateConfig, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.references import References
from raycap.datasets.splits import TRAIN, known_split
from raycap.evaluation.captions import Captions
from raycap.evaluation.clipping import ClipColumns, clip_columns, clip_spec
from raycap.evaluation.findings import reference_sums, why_skipped
from raycap.evaluation.matching import IS_SCORED, column, read_chunks
from raycap.evaluation.meteor import meteor_missing
from raycap.evaluation.scorefile import ScoreFiles
from raycap.evaluation.scoring import ScoredChunk, ScoringSpec, SystemScores
from raycap.evaluation.spice import spice_missing
from raycap.evaluation.sums import SystemSums
from raycap.evaluation.workers import Workers, open_workers
from raycap.metrics.diversity import DiversityCounts, merge_diversity, merge_hashes
from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from raycap.status import OnProgress, Progress

_CHUNK_IMAGES = 4_096
_MERGED_AT_A_TIME = 16
"""Chunks whose counts are merged at once: many small copies less, and little memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Systems and references in the scratch database, joined and settled."""

    database: duckdb.DuckDBPyConnection
    systems: Sequence[Captions]
    references: References
    splits: Sequence[str]
    num_rows: int
    """Images of the references."""
    num_scored: int

    def chunks(self) -> Iterator[pa.Table]:
        """Begin a pass over all images; see `matching.read_chunks`."""
        return read_chunks(self.database, len(self.systems), _CHUNK_IMAGES)


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


def run_passes(
    matched: Matched,
    config: EvaluateConfig,
    files: ScoreFiles,
    on_progress: OnProgress,
    *,
    debug: bool,
) -> PassesFound:
    """Go through all images, and write their scores.

    Raises:
        RaycapError: as `evaluate`.
    """
    external = config.external
    spice = spice_missing(external.spice_jars)
    skipped = why_skipped(config, {schema.METEOR: meteor_missing(), schema.SPICE: spice})
    clip = clip_spec(config, matched.references)
    spec = ScoringSpec(
        num_systems=len(matched.systems),
        tokenizer=config.tokenizer,
        meteor=schema.METEOR not in skipped,
        spice_jars=external.spice_jars if schema.SPICE not in skipped else None,
    )
    is_spread = matched.num_rows * len(matched.systems) >= config.spread_images
    num_chunks = -(-matched.num_rows // _CHUNK_IMAGES)
    numbers = range(len(matched.systems))
    with open_workers(spec, num_chunks=num_chunks, is_spread=is_spread, debug=debug) as workers:
        frequencies, lengths = _count(matched, workers)
        training = _hash_training(matched, workers, config.storage)
        clips: list[ClipColumns] = [
            {}
            if clip is None
            else clip_columns(clip, matched.chunks(), number, is_spread=workers.are_spread)
            for number in numbers
        ]
        scoring = _Scoring(clips, files, _Teller(on_progress, matched.num_scored))
        for chunk, scored in workers.run("score", matched.chunks(), frequencies, training):
            scoring.take(chunk, scored)
    return PassesFound(
        reference_lengths=lengths,
        reference_sums=np.concatenate(scoring.reference_sums),
        sums=[SystemSums.of(scoring.scores[number], clips[number]) for number in numbers],
        diversity=[
            merge_diversity([scores.diversity for scores in scoring.scores[number]])
            for number in numbers
        ],
        mean_logprobs=[_mean(values) for values in scoring.logprobs],
        skipped=[skipped | scoring.failed(number) for number in numbers],
        tells_copies=training is not None,
    )


class _Scoring:
    """Takes scored chunks in, one after the other."""

    def __init__(self, clips: list[ClipColumns], files: ScoreFiles, teller: "_Teller") -> None:
        self._clips = clips
        self._files = files
        self._tell = teller
        self._num_done = 0
        self.reference_sums: list[Int64[np.ndarray, "images 2"]] = []
        self.scores: list[list[SystemScores]] = [[] for _ in clips]
        self.logprobs: list[list[float]] = [[] for _ in clips]

    def take(self, chunk: pa.Table, scored: ScoredChunk) -> None:
        """Write a chunk's scores, and keep what the corpus's are made of."""
        is_scored = chunk[IS_SCORED].to_pylist()
        rows = slice(self._num_done, self._num_done + sum(is_scored))
        shares = [{name: scores[rows] for name, scores in clip.items()} for clip in self._clips]
        self._files.write(chunk, scored, shares)
        pairs = zip(scored.reference_tokens, is_scored, strict=True)
        self.reference_sums.append(reference_sums([tokens for tokens, yes in pairs if yes]))
        only = chunk.filter(chunk[IS_SCORED])
        for number, scores in enumerate(scored.systems):
            self.scores[number].append(scores)
            values = only[column(schema.LOGPROB, number)].drop_null()
            self.logprobs[number] += values.cast(pa.float64()).to_pylist()
        self._num_done = rows.stop
        self._tell(self._num_done)

    def failed(self, system: int) -> dict[str, str]:
        """Say which metrics failed on some chunk of a system, and why."""
        merged: dict[str, str] = {}
        for scores in self.scores[system]:
            merged.update(scores.skipped)
        return merged


class _Teller:
    """Tells how far the last pass is."""

    def __init__(self, on_progress: OnProgress, num_total: int) -> None:
        self._on_progress = on_progress
        self._num_total = num_total
        self._started = time.monotonic()

    def __call__(self, num_done: int) -> None:
        seconds = time.monotonic() - self._started
        self._on_progress(
            Progress(
                num_done=num_done,
                num_total=self._num_total,
                num_failed=0,
                images_per_s=num_done / seconds if seconds else 0.0,
            )
        )


def _count(matched: Matched, workers: Workers) -> tuple[DocumentFrequencies, Counter[int]]:
    """Count the references' n-grams and lengths."""
    merged: list[DocumentFrequencies] = []
    lengths: Counter[int] = Counter()
    for _, counted in workers.run("count", matched.chunks()):
        merged.append(counted.frequencies)
        lengths += counted.lengths
        if len(merged) == _MERGED_AT_A_TIME:
            merged = [merge_frequencies(merged)]
    return merge_frequencies(merged), lengths


def _hash_training(
    matched: Matched, workers: Workers, storage: StorageConfig
) -> UInt64[np.ndarray, " training"] | None:
    """Hash the training captions; None where there are none, or they are what is evaluated."""
    wanted = {known_split(name) for name in matched.splits}
    if not matched.references.is_dataset or not wanted or TRAIN in wanted:
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
