"""Lengths of captions in tokens, as histograms: captions by their length.

Histograms of parts of a corpus add up to the corpus's, by `+` of Counter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Histogram = Mapping[int, int]
"""Captions by their length."""


def count_lengths(captions: Iterable[Sequence[str]]) -> Counter[int]:
    """Count captions by their length in tokens."""
    return Counter(map(len, captions))


def mean_length(histogram: Histogram) -> float:
    """Compute the mean.

    Raises:
        ValueError: there are no captions.
    """
    return sum(length * count for length, count in histogram.items()) / _num_captions(histogram)


def median_length(histogram: Histogram) -> float:
    """Find the length in the middle; between two, their mean.

    Raises:
        ValueError: there are no captions.
    """
    num_captions = _num_captions(histogram)
    return (_nth(histogram, (num_captions - 1) // 2) + _nth(histogram, num_captions // 2)) / 2


def wasserstein(first: Histogram, second: Histogram) -> float:
    """Compute the earth mover's distance of two distributions of lengths, in tokens.

    The area between their distribution functions: exact, whatever their numbers of captions.

    Raises:
        ValueError: one of them has no captions.
    """
    num_first, num_second = _num_captions(first), _num_captions(second)
    below_first = below_second = area = 0
    for length, longer in pairwise(sorted({*first, *second})):
        below_first += first.get(length, 0)
        below_second += second.get(length, 0)
        area += abs(below_first * num_second - below_second * num_first) * (longer - length)
    return area / (num_first * num_second)


def _num_captions(histogram: Histogram) -> int:
    if not (num_captions := sum(histogram.values())):
        raise ValueError("lengths of no captions")
    return num_captions


def _nth(histogram: Histogram, number: int) -> int:
    """Find the length of a caption by its place in the ascending order."""
    for length in sorted(histogram):
        number -= histogram[length]
        if number < 0:
            return length
    raise ValueError("lengths of fewer captions")
