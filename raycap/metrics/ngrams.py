"""Tokens and n-grams as 64-bit hashes.

The hashes are equal in every process and on every machine, so that counts of parts can be merged.
The probability that any two of n different n-grams share a hash is n**2 / 2**65: for 8 million
n-grams, as in 200,000 images with 5 references each, 1 in 500,000.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
from jaxtyping import Int64, UInt64

NUM_ORDERS = 4
"""n-grams are of orders 1 to 4."""

Sentences = Sequence[Sequence[str]]
"""The tokens of each sentence."""

_HASH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedTokens:
    """The tokens of all sentences in one sequence."""

    sentences: Int64[np.ndarray, " tokens"]
    """The number of each token's sentence."""
    remaining: Int64[np.ndarray, " tokens"]
    """Tokens from this one to the end of its sentence; an n-gram starts here if there are n."""
    ngrams: UInt64[np.ndarray, "4 tokens"]
    """Hashes of the n-grams of each order that start here; undefined where none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramCounts:
    """Occurrences of each n-gram in each sentence; sorted by sentence, then by hash."""

    hashes: UInt64[np.ndarray, " ngrams"]
    """The distinct n-grams, ascending."""
    orders: Int64[np.ndarray, " ngrams"]
    """Their orders minus one."""
    sentences: Int64[np.ndarray, " entries"]
    ngrams: Int64[np.ndarray, " entries"]
    """Indices into `hashes`."""
    counts: Int64[np.ndarray, " entries"]


def hash_texts(texts: Iterable[str]) -> UInt64[np.ndarray, " texts"]:
    """Return the hash of each text."""
    digests = [
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
        for text in texts
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def hash_tokens(sentences: Sentences) -> HashedTokens:
    """Hash the tokens of sentences, and the n-grams that start at each."""
    tokens = list(chain.from_iterable(sentences))
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    position = np.arange(len(tokens))
    ngrams = np.empty((NUM_ORDERS, len(tokens)), np.uint64)
    ngrams[0] = _hash_each(tokens)
    for order in range(1, NUM_ORDERS):
        starts = max(0, len(tokens) - order)
        ngrams[order] = _mix(ngrams[order - 1])
        ngrams[order, :starts] += ngrams[0, order:]
    return HashedTokens(
        sentences=np.repeat(np.arange(len(sentences)), lengths),
        remaining=np.repeat(np.cumsum(lengths), lengths) - position,
        ngrams=ngrams,
    )


def count_ngrams(sentences: Sentences) -> NGramCounts:
    """Count the n-grams of orders 1 to 4 of each sentence."""
    hashed = hash_tokens(sentences)
    starts = [np.flatnonzero(hashed.remaining > order) for order in range(NUM_ORDERS)]
    hashes, ngrams = np.unique(
        np.concatenate([hashed.ngrams[order, at] for order, at in enumerate(starts)]),
        return_inverse=True,
    )
    orders = np.empty(len(hashes), np.int64)
    orders[ngrams] = np.repeat(np.arange(NUM_ORDERS), [len(at) for at in starts])
    keys = hashed.sentences[np.concatenate(starts)] * len(hashes) + ngrams
    entries, counts = np.unique(keys, return_counts=True)
    in_sentences, of_ngrams = np.divmod(entries, max(1, len(hashes)))
    return NGramCounts(
        hashes=hashes, orders=orders, sentences=in_sentences, ngrams=of_ngrams, counts=counts
    )


def _hash_each(tokens: Sequence[str]) -> UInt64[np.ndarray, " tokens"]:
    number = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    indices = np.fromiter(map(number.__getitem__, tokens), np.int64, len(tokens))
    return hash_texts(number)[indices]


def _mix(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Scramble the bits, so that a sum of hashes depends on the order of its terms.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
