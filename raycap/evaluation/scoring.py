"""Scoring chunks of an evaluation: tokens in, scores and statistics of each system out.

A chunk is a table of `chunks.read_chunks`. It is gone through twice: once to tokenize the
references and count their n-grams, which CIDEr-D weighs by, and once to score.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, UInt64

from raycap import schema
from raycap.errors import ConfigError
from raycap.evaluation.chunks import IS_SCORED, TOKENS, column, join_tokens, split_tokens
from raycap.evaluation.java import JavaError
from raycap.evaluation.meteor import Meteor
from raycap.evaluation.ptb import PTB, PtbTokenizer, ptb_missing
from raycap.evaluation.spice import spice_scores
from raycap.metrics.diversity import DiversityCounts, count_diversity, hash_captions
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths
from raycap.metrics.ngrams import Sentences
from raycap.metrics.scores import ImageScores, score_images
from raycap.metrics.tokenizer import TOKENIZER, tokenize

T = TypeVar("T")
TokenizerName = Literal["raycap", "ptb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSpec:
    """What every worker needs to know."""

    num_systems: int
    tokenizer: TokenizerName
    meteor: bool
    """Score METEOR; it can run here."""
    spice_jars: Path | None
    """Score SPICE with these jars; it can run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the first pass finds of a chunk."""

    tokens: pa.Array
    """Of the references of every image, as `chunks.keep_tokens` takes them."""
    frequencies: DocumentFrequencies
    """Of the references of scored images."""
    lengths: Counter[int]
    """Those references by their length in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScores:
    """One system's scores of the scored images of a chunk, in their order."""

    images: ImageScores
    has_caption: Bool[np.ndarray, " images"]
    lengths: Int64[np.ndarray, " images"]
    """Of the captions, in tokens; 0 where there is none."""
    diversity: DiversityCounts
    meteor: Float64[np.ndarray, "images 23"] | None = None
    """Statistics; see `meteor.NUM_STATISTICS`."""
    spice: Float64[np.ndarray, " images"] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that failed on this chunk, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChunk:
    """What the second pass finds of a chunk."""

    reference_tokens: list[list[int]]
    """Lengths of the references, of every image of the chunk."""
    systems: list[SystemScores]


class Scorer:
    """Counts and scores chunks; in this process, or as an actor."""

    def __init__(self, spec: ScoringSpec) -> None:
        self._spec = spec
        self._open = ExitStack()  # Java programs, which end with this process at the latest
        self._ptb: PtbTokenizer | None = None
        self._meteor: Meteor | None = None
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
        scored = _only_scored(references, chunk)
        return Counted(
            tokens=join_tokens(references),
            frequencies=DocumentFrequencies.of(scored),
            lengths=count_lengths(chain.from_iterable(scored)),
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
            chunk: as `chunks.read_chunks` yields it, with its tokens.
            frequencies: those of all chunks, merged.
            training: hashes of the training captions; None where nothing can be copied.

        Raises:
            JavaError: the ptb tokenizer failed. Where METEOR or SPICE fail, `skipped` says so.
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
        tokens = self._tokenize(captions.fill_null("").to_pylist())
        present = [words for words, yes in zip(tokens, has_caption, strict=True) if yes]
        jars, meteor, spice = self._spec.spice_jars, None, None
        if self._spec.meteor:
            meteor = self._attempt(schema.METEOR, lambda: self._align(tokens, references))
        if jars is not None:
            spice = self._attempt(schema.SPICE, lambda: spice_scores(tokens, references, jars))
        return SystemScores(
            images=score_images(tokens, references, frequencies),
            has_caption=has_caption,
            lengths=np.fromiter(map(len, tokens), np.int64, len(tokens)),
            diversity=count_diversity(present, training),
            meteor=meteor,
            spice=spice,
            skipped=dict(self._failed),
        )

    def _attempt(self, name: str, score: Callable[[], T]) -> T | None:
        """Score by a program, unless it has failed: then never again, and `skipped` says why."""
        if name in self._failed:
            return None
        try:
            return score()
        except JavaError as error:
            self._failed[name] = str(error)
            return None

    def _align(
        self, captions: Sentences, references: list[Sentences]
    ) -> Float64[np.ndarray, "images 23"]:
        if self._meteor is None:
            self._meteor = self._open.enter_context(Meteor())
        return self._meteor.statistics(captions, references)

    def _tokenize(self, captions: Sequence[str]) -> list[list[str]]:
        if self._spec.tokenizer == "raycap":
            return [tokenize(caption) for caption in captions]
        if self._ptb is None:
            self._ptb = self._open.enter_context(PtbTokenizer())
        return self._ptb.tokenize(captions)


def _only_scored(references: list[Sentences], chunk: pa.Table) -> list[Sentences]:
    pairs = zip(references, chunk[IS_SCORED].to_pylist(), strict=True)
    return [tokens for tokens, is_scored in pairs if is_scored]


def tokenizer_name(chosen: TokenizerName) -> str:
    """Name a tokenizer as results do.

    Raises:
        ConfigError: it cannot run here.
    """
    if chosen == "raycap":
        return TOKENIZER
    reason = ptb_missing()
    if reason is not None:
        raise ConfigError(f"tokenizer=ptb: {reason}")
    return PTB
