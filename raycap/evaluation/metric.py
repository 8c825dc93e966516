"""What a metric provides to the registry: one Metric per score, or per family of scores.

A corpus's score is always a function of sums over images, so that one set of functions gives the
score of an image, of the corpus, and of each resample of the bootstrap (see `metrics.bootstrap`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Real

from raycap import schema
from raycap.config import ExternalMetricsConfig
from raycap.metrics.bleu import corpus_bleu, count_bleu
from raycap.metrics.cider import score_cider_d
from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.ngrams import Sentences
from raycap.metrics.rouge import score_rouge_l
from raycap.metrics.scores import mean
from raycap.results.labels import LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Captions of one system, as tokens, and what they are scored against."""

    captions: Sentences
    """Of each image; empty where there is no caption."""
    has_caption: Bool[np.ndarray, " images"]
    references: Sequence[Sentences]
    """Of each image, one or more."""
    frequencies: DocumentFrequencies
    """Of the references of all images of the evaluation."""
    corpus: Corpus
    """`captions` and `references`, counted and matched."""

    @property
    def lengths(self) -> Int64[np.ndarray, " images"]:
        """Lengths of the captions in tokens; 0 where there is no caption."""
        return self.corpus.lengths[: self.corpus.num_images]


Score = Callable[[Batch], np.ndarray]
"""Returns the statistics of each image: its score (`[images]`, NaN where it has none), or, with a
formula, counts that add up over images (`[images, k]`)."""

Values = dict[str, Float64[np.ndarray, "*batch"]]
"""Scores by name, of each resample for instance; NaN where there is none."""


def _always(_: ExternalMetricsConfig) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One score, or several from the same statistics; see `registry.METRICS`."""

    columns: tuple[str, ...]
    """Names of its scores, in results and as columns of per-image scores."""
    open: Callable[[ExternalMetricsConfig, ExitStack], Score] | None
    """Prepares to score in a worker; programs are closed with the stack. Raises JavaError if it
    cannot, as may the Score; the metric is then reported as skipped. None: scored in a separate
    pass over the images, as CLIPScore is."""
    formula: Callable[[Real[np.ndarray, "*batch k"]], Float64[np.ndarray, "*batch n"]] | None = None
    """Computes the scores, in the order of `columns`, from sums of the statistics. None: the
    corpus's score is the mean of the images' scores."""
    why_skipped: Callable[[ExternalMetricsConfig], str | None] = _always
    """Returns why it cannot run here, or None if it can."""
    memory_bytes: int = 0
    """Memory that a worker needs for its program."""

    @property
    def name(self) -> str:
        """Key of its statistics: the name of its first score."""
        return self.columns[0]

    def of_images(self, statistics: np.ndarray) -> Values:
        """Return the scores of each image alone."""
        if self.formula is None:
            return {self.name: statistics}
        return self._by_name(self.formula(statistics))

    def of_corpus(self, statistics: np.ndarray) -> dict[str, float | None]:
        """Return the corpus's scores, to the last bit the same in any order of images.

        None where no image has a score.
        """
        if self.formula is None:
            present = statistics[~np.isnan(statistics)]
            return {self.name: mean(present) if len(present) else None}
        scores = self.formula(statistics.sum(axis=0))
        return dict(zip(self.columns, scores.tolist(), strict=True))

    def summands(self, statistics: np.ndarray) -> list[np.ndarray]:
        """Return what `of_sums` needs the sums of: blocks of columns, one row per image."""
        if self.formula is not None:
            return [statistics]
        is_present = ~np.isnan(statistics)
        return [np.where(is_present, statistics, 0.0)[:, None], is_present[:, None]]

    def of_sums(self, sums: Float64[np.ndarray, "*batch k"]) -> Values:
        """Return the scores from sums of `summands`; NaN where no image has a score."""
        if self.formula is not None:
            return self._by_name(self.formula(sums))
        num_images = sums[..., 1]
        none = np.full(num_images.shape, np.nan)
        scores = np.divide(sums[..., 0], num_images, out=none, where=num_images > 0)
        return {self.name: np.asarray(scores)}

    def _by_name(self, scores: Float64[np.ndarray, "*batch n"]) -> Values:
        return {name: scores[..., place] for place, name in enumerate(self.columns)}


def _built_in(score: Score) -> Callable[[ExternalMetricsConfig, ExitStack], Score]:
    return lambda _config, _opened: score


def _score_rouge_l(batch: Batch) -> np.ndarray:
    scores = map(score_rouge_l, batch.captions, batch.references)
    return np.fromiter(scores, np.float64, len(batch.captions))


def _score_cider_d(batch: Batch) -> np.ndarray:
    """Score by CIDEr-D; not at all where it would be 0 whatever the captions say."""
    if not batch.frequencies.tells_images_apart:
        return np.full(len(batch.captions), np.nan)
    return score_cider_d(batch.corpus, batch.frequencies)


BLEU = Metric(
    columns=schema.BLEU,
    open=_built_in(lambda batch: count_bleu(batch.corpus)),
    formula=corpus_bleu,
)
ROUGE_L = Metric(columns=(schema.ROUGE_L,), open=_built_in(_score_rouge_l))
CIDER_D = Metric(
    columns=(schema.CIDER_D,),
    open=_built_in(_score_cider_d),
)
LENGTHS = Metric(
    columns=(LENGTH,),
    open=_built_in(lambda batch: np.where(batch.has_caption, batch.lengths, np.nan)),
)
