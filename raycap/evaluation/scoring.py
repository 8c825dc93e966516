"""Scoring chunks of an evaluation: tokens in, statistics of each system out.

A chunk is a table of `matching.read_chunks`. It is processed twice: once to tokenize the references
and count their n-grams, by which CIDEr-D weighs, and once to score. Chunks are scored in this
process, or by Ray actors where the set is large.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from jaxtyping import Bool, Int64, UInt64

from raycap import schema
from raycap.config import ExternalMetricsConfig
from raycap.errors import ConfigError
from raycap.evaluation.java import PTB, JavaError, PtbTokenizer, ptb_missing
from raycap.evaluation.matching import IS_SCORED, TOKENS, column, join_tokens, split_tokens
from raycap.evaluation.metric import Batch, Metric, Score
from raycap.evaluation.registry import METRICS
from raycap.evaluation.workers import RESTARTS, spread
from raycap.metrics.corpus import Corpus
from raycap.metrics.diversity import DiversityCounts, count_diversity, hash_captions
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths
from raycap.metrics.ngrams import Sentences
from raycap.metrics.tokenizer import TOKENIZER, is_unsplit, tokenize

TokenizerName = Literal["raycap", "ptb"]
_Image = TypeVar("_Image")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSpec:
    """What every worker needs to know."""

    num_systems: int
    tokenizer: TokenizerName
    metrics: tuple[str, ...]
    """Names of the metrics that run here."""
    external: ExternalMetricsConfig

    @property
    def scored(self) -> list[Metric]:
        """The metrics that workers score."""
        return [metric for metric in METRICS if metric.open and metric.name in self.metrics]

    @property
    def memory_bytes(self) -> int:
        """Memory of a worker's programs."""
        return sum(metric.memory_bytes for metric in self.scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Results of the first pass over a chunk."""

    tokens: pa.Array
    """Of the references of every image, as `matching.keep_tokens` takes them."""
    frequencies: DocumentFrequencies
    """Of the references of scored images."""
    lengths: Counter[int]
    """Those references by their length in tokens."""
    num_unsplit: int
    """Those references that the tokenizer cannot split into words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScores:
    """One system's scores of the scored images of a chunk, in order."""

    statistics: dict[str, np.ndarray]
    """By the names of the metrics that ran; see `metric.Score`."""
    has_caption: Bool[np.ndarray, " images"]
    lengths: Int64[np.ndarray, " images"]
    """Of the captions, in tokens; 0 where there is none."""
    diversity: DiversityCounts
    num_unsplit: int = 0
    """Captions that the tokenizer cannot split into words."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Scores that failed on this chunk, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChunk:
    """Results of the second pass over a chunk."""

    reference_tokens: list[list[int]]
    """Lengths of the references, of every image of the chunk."""
    systems: list[SystemScores]


class Scorer:
    """Counts and scores chunks, in this process or as an actor."""

    def __init__(self, spec: ScoringSpec) -> None:
        self._spec = spec
        self._open = ExitStack()  # Java programs; they end with this process at the latest
        self._ptb: PtbTokenizer | None = None
        self._scores: dict[str, Score] = {}
        self._failed: dict[str, str] = {}

    def close(self) -> None:
        """End the Java programs."""
        self._open.close()

    def count(self, chunk: pa.Table) -> Counted:
        """Tokenize the references, and count their n-grams and lengths.

        Raises:
            JavaError: the ptb tokenizer failed.
        """
        written: list[list[str]] = chunk[schema.REFERENCE_CAPTIONS].to_pylist()
        tokens = iter(self._tokenize(list(chain.from_iterable(written))))
        references: list[Sentences] = [[next(tokens) for _ in image] for image in written]
        scored, texts = _only_scored(references, chunk), _only_scored(written, chunk)
        return Counted(
            tokens=join_tokens(references),
            frequencies=DocumentFrequencies.of(scored),
            lengths=count_lengths(chain.from_iterable(scored)),
            num_unsplit=sum(is_unsplit(text) for image in texts for text in image),
        )

    def hash_captions(self, captions: Sequence[str]) -> UInt64[np.ndarray, " captions"]:
        """Hash training captions as `metrics.diversity` compares them."""
        return hash_captions(self._tokenize(captions))

    def score(
        self,
        chunk: pa.Table,
        frequencies: DocumentFrequencies,
        training: UInt64[np.ndarray, " training"] | None,
    ) -> ScoredChunk:
        """Score every system.

        Args:
            chunk: as `matching.read_chunks` yields it, with its tokens.
            frequencies: those of all chunks, merged.
            training: hashes of the training captions; None if copies are not counted.

        Raises:
            JavaError: the ptb tokenizer failed. A metric that fails is reported in `skipped`.
        """
        references = split_tokens(chunk[TOKENS])
        scored = _only_scored(references, chunk)
        captions = chunk.filter(chunk[IS_SCORED])
        return ScoredChunk(
            reference_tokens=[list(map(len, image)) for image in references],
            systems=[
                self._score(captions[column(schema.CAPTION, number)], scored, frequencies, training)
                for number in range(self._spec.num_systems)
            ],
        )

    def _score(
        self,
        captions: pa.ChunkedArray,
        references: list[Sentences],
        frequencies: DocumentFrequencies,
        training: UInt64[np.ndarray, " training"] | None,
    ) -> SystemScores:
        has_caption = np.asarray(pc.is_valid(captions).to_numpy(), np.bool_)
        texts = captions.fill_null("").to_pylist()
        tokens = self._tokenize(texts)
        batch = Batch(
            captions=tokens,
            has_caption=has_caption,
            references=references,
            frequencies=frequencies,
            corpus=Corpus.of(tokens, references),
        )
        found = {metric.name: self._attempt(metric, batch) for metric in self._spec.scored}
        present = [words for words, yes in zip(tokens, has_caption, strict=True) if yes]
        return SystemScores(
            statistics={name: values for name, values in found.items() if values is not None},
            has_caption=has_caption,
            lengths=batch.lengths,
            diversity=count_diversity(present, training),
            num_unsplit=sum(map(is_unsplit, texts)),
            skipped=dict(self._failed),
        )

    def _attempt(self, metric: Metric, batch: Batch) -> np.ndarray | None:
        """Score by a metric, unless it has failed before; `skipped` then says why."""
        if metric.name in self._failed or metric.open is None:
            return None
        try:
            if metric.name not in self._scores:
                self._scores[metric.name] = metric.open(self._spec.external, self._open)
            return self._scores[metric.name](batch)
        except JavaError as error:
            self._failed |= dict.fromkeys(metric.columns, str(error))
            return None

    def _tokenize(self, captions: Sequence[str]) -> list[list[str]]:
        if self._spec.tokenizer == "raycap":
            return [tokenize(caption) for caption in captions]
        if self._ptb is None:
            self._ptb = self._open.enter_context(PtbTokenizer())
        return self._ptb.tokenize(captions)


def _only_scored(references: Sequence[_Image], chunk: pa.Table) -> list[_Image]:
    pairs = zip(references, chunk[IS_SCORED].to_pylist(), strict=True)
    return [tokens for tokens, is_scored in pairs if is_scored]


def tokenizer_name(chosen: TokenizerName) -> str:
    """Return the name of a tokenizer in results.

    Raises:
        ConfigError: it cannot run here.
    """
    if chosen == "raycap":
        return TOKENIZER
    reason = ptb_missing()
    if reason is not None:
        raise ConfigError(f"tokenizer=ptb: {reason}", setting="tokenizer")
    return PTB


class Workers:
    """Runs a method of `Scorer` over chunks, in order; see `open_workers`."""

    def __init__(self, scorer: Scorer | None, actors: list[Any]) -> None:
        self._scorer = scorer
        self._actors = actors

    def run(
        self, method: str, chunks: Iterable[Any], *arguments: Any
    ) -> Iterator[tuple[pa.Table, Any]]:
        """Yield each chunk with its answer.

        Args:
            method: of `Scorer`; called with a chunk and `arguments`.
            chunks: read as needed.
            arguments: the same for every chunk, sent to each worker once.

        Raises:
            RaycapError: as the method raised it, or workers died repeatedly.
        """
        if self._scorer is not None:
            call = getattr(self._scorer, method)
            yield from ((chunk, call(chunk, *arguments)) for chunk in chunks)
            return
        shared = [None if value is None else ray.put(value) for value in arguments]
        yield from spread(self._actors, method, chunks, *shared)


@contextmanager
def open_workers(spec: ScoringSpec, *, num_chunks: int, is_spread: bool) -> Iterator[Workers]:
    """Provide workers for the block: this process, or one per idle CPU of the cluster.

    Args:
        spec: what they need to know.
        num_chunks: more workers would have nothing to do.
        is_spread: use Ray actors; Ray must be connected (`raycap.cluster.start.ray_cluster`).
    """
    if not is_spread:
        scorer = Scorer(spec)
        try:
            yield Workers(scorer, [])
        finally:
            scorer.close()
        return
    num_places = _count_places(spec)
    actor: Any = ray.remote(Scorer).options(
        num_cpus=1,
        memory=spec.memory_bytes if spec.memory_bytes and num_places else None,
        scheduling_strategy="SPREAD",
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )
    actors = [actor.remote(spec) for _ in range(max(1, min(num_chunks, num_places)))]
    try:
        yield Workers(None, actors)
    finally:
        for started in actors:
            ray.kill(started)


def _count_places(spec: ScoringSpec) -> int:
    """Count the workers that fit into the memory of the nodes and the idle CPUs of the cluster.

    A worker that waits for a CPU of another job would keep all others waiting.
    """
    idle: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    places = [
        min(node.get("CPU", 0.0), node.get("memory", 0.0) // spec.memory_bytes)
        if spec.memory_bytes
        else node.get("CPU", 0.0)
        for node in nodes
    ]
    return int(min(idle.get("CPU", 0.0), sum(map(int, places))))
