"""CIDEr-D: consensus of a caption with its references, by n-grams weighted by rarity.

Source: Vedantam, Zitnick and Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation",
arXiv:1411.5726, section 7; as computed by coco-caption, which calls it CIDEr.
"""

import math

import numpy as np
from jaxtyping import Float64, UInt64

from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.ngrams import NUM_ORDERS

_SIGMA = 6.0
_SCALE = 10.0


def score_cider_d(
    corpus: Corpus, frequencies: DocumentFrequencies
) -> Float64[np.ndarray, " images"]:
    """Score each image; the corpus's score is the mean of these.

    Sums have an order that depends on the image alone, so that other images in the same call do
    not change its score, not even in the last bit.

    Args:
        corpus: some or all of the images.
        frequencies: those of all images. With a single image every score is 0.
    """
    ngrams, num_images = corpus.ngrams, corpus.num_images
    weights = ngrams.counts * _weigh(ngrams.hashes, frequencies)[ngrams.ngrams]
    cells = ngrams.sentences * NUM_ORDERS + ngrams.orders[ngrams.ngrams]
    num_cells = len(corpus.lengths) * NUM_ORDERS
    norms = np.sqrt(np.bincount(cells, weights * weights, num_cells)).reshape(-1, NUM_ORDERS)
    matched = corpus.matched_reference
    clipped = np.minimum(weights[corpus.matched_hypothesis], weights[matched])
    products = np.bincount(cells[matched], clipped * weights[matched], num_cells)
    products = products.reshape(-1, NUM_ORDERS)[num_images:]
    scales = norms[corpus.image_of] * norms[num_images:]
    cosines = np.divide(products, scales, out=np.zeros_like(scales), where=scales > 0)
    scores = cosines.sum(axis=1) / NUM_ORDERS * _penalize(corpus)
    num_references = np.bincount(corpus.image_of, minlength=num_images)
    return _SCALE * np.bincount(corpus.image_of, scores, num_images) / num_references


def _weigh(
    hashes: UInt64[np.ndarray, " ngrams"], frequencies: DocumentFrequencies
) -> Float64[np.ndarray, " ngrams"]:
    """Weigh n-grams by rarity: the logarithm of images divided by images with the n-gram."""
    distinct, ngrams = np.unique(frequencies.counts_of(hashes), return_inverse=True)
    # One by one: numpy's logarithm may depend on the position of a value in its array.
    logs = [math.log(max(1, count)) for count in distinct.tolist()]
    return math.log(max(1, frequencies.num_images)) - np.array(logs, np.float64)[ngrams]


def _penalize(corpus: Corpus) -> Float64[np.ndarray, " references"]:
    """Compute the Gaussian penalty for a length in tokens that differs from the reference's."""
    lengths = corpus.lengths  # coco-caption counts pairs of tokens, which differ by as much
    distances = np.abs(lengths[corpus.image_of] - lengths[corpus.num_images :])
    distinct, references = np.unique(distances, return_inverse=True)
    penalties = [math.exp(-(distance**2) / (2 * _SIGMA**2)) for distance in distinct.tolist()]
    return np.array(penalties, np.float64)[references]
