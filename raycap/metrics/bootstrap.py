"""The bootstrap: how a corpus's scores vary with the images drawn.

A resample draws as many images as there are, with replacement. Every corpus score is computed from
sums over images, so a resample only changes their weights: BLEU is `corpus_bleu` of the summed
counts, a mean is a sum divided by the number of images. (CIDEr's document frequencies remain those
of all images.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

_CHUNK_WEIGHTS = 4_000_000  # 32 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Resamples of a set of images; equal settings give equal resamples, so systems are paired.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap".
    """

    num_images: int
    num_resamples: int
    seed: int

    def sums(self, columns: Float64[np.ndarray, "images k"]) -> Float64[np.ndarray, "resamples k"]:
        """Sum columns over the images of each resample.

        Sums of whole numbers are exact.

        Args:
            columns: the values to sum, one row per image.
        """
        chunks = [weights @ columns for weights in self._weights()]
        return np.concatenate([np.empty((0, columns.shape[1])), *chunks])

    def _weights(self) -> Iterator[Float64[np.ndarray, "chunk images"]]:
        """Draw how often each image occurs in each resample, a chunk of resamples at a time."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        chunk = max(1, _CHUNK_WEIGHTS // max(1, self.num_images))
        for start in range(0, self.num_resamples, chunk):
            weights = np.empty((min(chunk, self.num_resamples - start), self.num_images))
            for row in weights:
                drawn = generator.integers(self.num_images, size=self.num_images)
                row[:] = np.bincount(drawn, minlength=self.num_images)
            yield weights


def interval(values: Float64[np.ndarray, " resamples"], confidence: float) -> tuple[float, float]:
    """Compute the percentile interval of a score from its values in each resample.

    Args:
        values: one or more.
        confidence: share of the values inside, such as 0.95.
    """
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(differences: Float64[np.ndarray, " resamples"]) -> float:
    """Return the p-value of two systems' difference, from that of their scores in each resample.

    Two-sided: twice the share of resamples on the rarer side of 0. Those at 0 count on both sides,
    and the corpus itself counts as one more resample on the rarer side, so that it is never 0.

    Source: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"; the
    additional count is from Davison and Hinkley 1997, section 4.4.
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))
