"""Diversity of captions, from counts of parts of a corpus that can be merged.

Tokens, pairs and whole captions are 64-bit hashes (see `ngrams.py`), so that a training set of
millions of captions takes 8 bytes per caption.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import UInt64

from raycap.metrics.frequencies import distinct, find
from raycap.metrics.ngrams import NUM_ORDERS, HashedTokens, Sentences, hash_texts, hash_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityCounts:
    """Counts over captions. Shares of nothing are 0."""

    num_captions: int
    num_tokens: int
    num_pairs: int
    """Neighbouring tokens."""
    num_repetitive: int
    """Captions in which a run of one to four tokens is repeated immediately."""
    num_copied: int
    """Captions that equal a training caption, token for token."""
    tokens: UInt64[np.ndarray, " tokens"]
    """Distinct ones, ascending; likewise the following."""
    pairs: UInt64[np.ndarray, " pairs"]
    captions: UInt64[np.ndarray, " captions"]

    @property
    def distinct_1(self) -> float:
        """Distinct tokens divided by all tokens. Source: Li et al. 2016, arXiv:1510.03055."""
        return len(self.tokens) / max(1, self.num_tokens)

    @property
    def distinct_2(self) -> float:
        """Distinct pairs of neighbouring tokens divided by all pairs. Source: see `distinct_1`."""
        return len(self.pairs) / max(1, self.num_pairs)

    @property
    def repetition(self) -> float:
        """Share of captions in which a run of one to four tokens is repeated immediately."""
        return self.num_repetitive / max(1, self.num_captions)

    @property
    def copied(self) -> float:
        """Share of captions that equal a training caption, token for token."""
        return self.num_copied / max(1, self.num_captions)

    @property
    def vocabulary_size(self) -> int:
        """Number of distinct tokens."""
        return len(self.tokens)

    @property
    def num_different_captions(self) -> int:
        """Number of distinct captions."""
        return len(self.captions)


_SETS = frozenset({"tokens", "pairs", "captions"})


def hash_captions(captions: Iterable[Sequence[str]]) -> UInt64[np.ndarray, " captions"]:
    """Hash captions, given as tokens; return the distinct hashes, ascending."""
    return distinct(_hash_each(captions))


def merge_hashes(parts: Sequence[UInt64[np.ndarray, " _"]]) -> UInt64[np.ndarray, " captions"]:
    """Merge the results of `hash_captions` for parts of the captions."""
    return distinct(np.concatenate([np.empty(0, np.uint64), *parts]))


def count_diversity(
    captions: Sentences, training: UInt64[np.ndarray, " training"] | None = None
) -> DiversityCounts:
    """Count what diversity is computed from.

    Args:
        captions: tokens of each caption.
        training: `hash_captions` of the training captions; None: no caption counts as copied.
    """
    hashed = hash_tokens(captions)
    hashes = _hash_each(captions)
    starts_pair = hashed.remaining >= 2
    _, copied = find(hashes, np.empty(0, np.uint64) if training is None else training)
    return DiversityCounts(
        num_captions=len(captions),
        num_tokens=len(hashed.sentences),
        num_pairs=int(starts_pair.sum()),
        num_repetitive=_num_repetitive(hashed),
        num_copied=int(copied.sum()),
        tokens=distinct(hashed.ngrams[0]),
        pairs=distinct(hashed.ngrams[1, starts_pair]),
        captions=distinct(hashes),
    )


def merge_diversity(parts: Sequence[DiversityCounts]) -> DiversityCounts:
    """Merge the counts of parts of the captions; their order does not matter.

    Raises:
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("diversity of no captions")
    merged: dict[str, Any] = {}
    for field in fields(DiversityCounts):
        values = [getattr(part, field.name) for part in parts]
        merged[field.name] = merge_hashes(values) if field.name in _SETS else sum(values)
    return DiversityCounts(**merged)


def _hash_each(captions: Iterable[Sequence[str]]) -> UInt64[np.ndarray, " captions"]:
    return hash_texts("\n".join(tokens) for tokens in captions)


def _num_repetitive(hashed: HashedTokens) -> int:
    """Count the sentences in which an n-gram is repeated immediately."""
    repetitive = [np.empty(0, np.int64)]
    for length in range(1, NUM_ORDERS + 1):
        ngrams = hashed.ngrams[length - 1]
        starts = np.flatnonzero(hashed.remaining >= 2 * length)
        again = ngrams[starts] == ngrams[starts + length]
        repetitive.append(hashed.sentences[starts[again]])
    return len(distinct(np.concatenate(repetitive)))
