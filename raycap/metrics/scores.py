"""BLEU, ROUGE-L and CIDEr-D of images, in two passes over parts of a corpus.

    frequencies = merge_frequencies([DocumentFrequencies.of(part.references) for part in parts])
    scores = [score_images(part.hypotheses, part.references, frequencies) for part in parts]

The scores of an image do not depend on the parts, not even in the last bit. A corpus's BLEU is
`corpus_bleu` of the sum of its images' counts; its other scores are means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from raycap.metrics.bleu import corpus_bleu, count_bleu
from raycap.metrics.cider import score_cider_d
from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.ngrams import Sentences
from raycap.metrics.rouge import score_rouge_l


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """Scores of images, in order. An empty hypothesis scores 0."""

    bleu_counts: Int64[np.ndarray, "images 10"]
    """See `bleu.NUM_BLEU_COUNTS`."""
    bleu: Float64[np.ndarray, "images 4"]
    """BLEU-1 to BLEU-4 of each image; their mean is not the corpus's score."""
    rouge_l: Float64[np.ndarray, " images"]
    cider_d: Float64[np.ndarray, " images"]


def score_images(
    hypotheses: Sentences, references: Sequence[Sentences], frequencies: DocumentFrequencies
) -> ImageScores:
    """Score some or all images of a corpus.

    Args:
        hypotheses: tokens of each image's caption.
        references: tokens of each reference of each image, one or more per image.
        frequencies: those of the references of the whole corpus.

    Raises:
        ValueError: there are not as many hypotheses as images, or an image has no reference.
    """
    corpus = Corpus.of(hypotheses, references)
    counts = count_bleu(corpus)
    rouge_l = map(score_rouge_l, hypotheses, references)
    return ImageScores(
        bleu_counts=counts,
        bleu=corpus_bleu(counts),
        rouge_l=np.fromiter(rouge_l, np.float64, len(hypotheses)),
        cider_d=score_cider_d(corpus, frequencies),
    )


def mean(values: Float64[np.ndarray, " n"]) -> float:
    """Return the mean, from an exact sum: it does not depend on the order of the values.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("the mean of no values")
    return math.fsum(values.tolist()) / len(values)
