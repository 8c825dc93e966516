"""N-grams of captions and references, counted and matched: the input of n-gram metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int64

from raycap.metrics.frequencies import find
from raycap.metrics.ngrams import NGramCounts, Sentences, count_ngrams


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Images, each with a hypothesis and references."""

    num_images: int
    image_of: Int64[np.ndarray, " references"]
    """The image of each reference."""
    lengths: Int64[np.ndarray, " sentences"]
    """In tokens; of the hypotheses, then of the references."""
    ngrams: NGramCounts
    """Of the hypotheses, then of the references."""
    matched_hypothesis: Int64[np.ndarray, " matches"]
    """For each n-gram that a hypothesis shares with a reference: the entry of `ngrams` that counts
    it in the hypothesis."""
    matched_reference: Int64[np.ndarray, " matches"]
    """For the same n-grams: the entry that counts it in the reference; ascending."""

    @classmethod
    def of(cls, hypotheses: Sentences, references: Sequence[Sentences]) -> "Corpus":
        """Count n-grams and match them.

        Raises:
            ValueError: there are not as many hypotheses as images, or an image has no reference.
        """
        num_references = np.fromiter(map(len, references), np.int64, len(references))
        if len(hypotheses) != len(references) or not num_references.all():
            raise ValueError("each image needs one hypothesis, and one reference or more")
        image_of = np.repeat(np.arange(len(references)), num_references)
        sentences = [*hypotheses, *chain.from_iterable(references)]
        ngrams = count_ngrams(sentences)
        matched_hypothesis, matched_reference = _match(ngrams, image_of, len(hypotheses))
        return cls(
            num_images=len(hypotheses),
            image_of=image_of,
            lengths=np.fromiter(map(len, sentences), np.int64, len(sentences)),
            ngrams=ngrams,
            matched_hypothesis=matched_hypothesis,
            matched_reference=matched_reference,
        )


def _match(
    ngrams: NGramCounts, image_of: Int64[np.ndarray, " references"], num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries of n-grams that a reference shares with the hypothesis of its image."""
    images = np.concatenate([np.arange(num_images), image_of])
    keys = images[ngrams.sentences] * len(ngrams.hashes) + ngrams.ngrams
    split = np.searchsorted(ngrams.sentences, num_images)
    places, found = find(keys[split:], keys[:split])
    return places[found], np.flatnonzero(found) + split
