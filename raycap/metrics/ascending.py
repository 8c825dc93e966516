"""Sets of numbers as ascending arrays: compact, and quick to merge and to look up."""

import numpy as np
from jaxtyping import Bool, Int64


def distinct(values: np.ndarray) -> np.ndarray:
    """Sort values and drop those that are there again: `np.unique`, but many times as fast."""
    values = np.sort(values)
    return np.asarray(values[starts_of_runs(values)])


def starts_of_runs(values: np.ndarray) -> Int64[np.ndarray, " runs"]:
    """Find where another value begins in sorted values."""
    return np.flatnonzero(np.concatenate([[len(values) > 0], values[1:] != values[:-1]]))


def find(
    values: np.ndarray, ascending: np.ndarray
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Look values up in an ascending array; return their places there, and whether they are."""
    if not len(ascending):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return places, ascending[places] == values
