"""Lengths of captions in tokens, as histograms: number of captions by length.

Histograms of parts of a corpus add up to that of the corpus, by `+` of Counter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Histogram = Mapping[int, int]
"""Number of captions by length."""


def count_lengths(captions: Iterable[Sequence[str]]) -> Counter[int]:
    """Count captions by their length in tokens."""
    return Counter(map(len, captions))


def mean_length(histogram: Histogram) -> float:
    """Return the mean length.

    Raises:
        ValueError: there are no captions.
    """
    return sum(length * count for length, count in histogram.items()) / _num_captions(histogram)


def median_length(histogram: Histogram) -> float:
    """Return the median length; of two middle ones, their mean.

    Raises:
        ValueError: there are no captions.
    """
    num_captions = _num_captions(histogram)
    return (_nth(histogram, (num_captions - 1) // 2) + _nth(histogram, num_captions // 2)) / 2


def wasserstein(first: Histogram, second: Histogram) -> float:
    """Return the earth mover's distance between two distributions of lengths, in tokens.

    It is the area between their distribution functions, exact for any numbers of captions.

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
    """Return the length of a caption by its position in ascending order."""
    for length in sorted(histogram):
        number -= histogram[length]
        if number < 0:
            return length
    raise ValueError("lengths of fewer captions")
