"""Loops: answers in which a model repeats words, phrases, sentences or characters without end.

Enumerations repeat words, too ("a red car, a blue car, a green car"), tables and lists repeat whole
phrases, and signs say "no no no". A loop repeats exactly the same, more often than any of these;
a number that counts the rounds is no difference, because models number their loops.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int

_TOKEN = re.compile(
    r"\d+|[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]"  # scripts without spaces: each letter
    r"|[^\W\d_\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]+"
)
_NUMBER = "0"
_MAX_PERIOD = 150  # tokens: a paragraph

# A period of few tokens must come more often to be a loop.
_LEAST_ROUNDS = {1: 6, 2: 5, 3: 4}
_ROUNDS = 3
_NUMBERED_ROUNDS = 10
_COUNTER_DIGITS = 6

_CHARACTERS = re.compile(r"(\S{1,4}?)\1{9,}", re.DOTALL)
_LEAST_CHARACTERS = 20
_RULED = frozenset("-=_*~.#|+:·•─═━ 　")
"""Characters that draw lines and tables, and lead from one column to the next."""
_LEAST_RULED = 250
_DIGITS = 40

_LEAST_SENTENCES = 6
_MAX_DISTINCT_SHARE = 0.4
_SENTENCE_WORDS = 4
_SENTENCES = re.compile(r"[.!?。！？।\n]+")  # noqa: RUF001  marks of other scripts


def find_loop(answer: str) -> int | None:
    """Find a loop in an answer.

    Returns:
        The offset at which its second round begins: all text before it is said for the first time.
        None if the answer does not loop.
    """
    found = [_find_character_loop(answer), _find_word_loop(answer), _find_sentence_loop(answer)]
    return min((offset for offset in found if offset is not None), default=None)


def _find_character_loop(answer: str) -> int | None:
    for found in _CHARACTERS.finditer(answer):
        unit, length = found[1], len(found[0])
        if set(unit) <= _RULED:
            is_loop = length >= _LEAST_RULED
        elif unit.isdigit():
            is_loop = length >= _DIGITS
        else:
            is_loop = length >= _LEAST_CHARACTERS
        if is_loop:
            return found.start() + len(unit)
    return None


def _find_word_loop(answer: str) -> int | None:
    tokens = list(_TOKEN.finditer(answer))
    exact = [token[0].casefold() for token in tokens]
    words = [_NUMBER if word.isdigit() else word for word in exact]
    if max(Counter(pairwise(words)).values(), default=0) < _ROUNDS:
        return None  # most answers: no two neighbours are often neighbours
    ids = np.unique(np.array(words), return_inverse=True)[1]
    for period in range(1, min(_MAX_PERIOD, len(words) // _ROUNDS) + 1):
        for start, end in _runs(ids, period):
            if _is_loop(words[start:end], exact[start:end], period):
                return tokens[start + period].start()
    return None


def _runs(ids: Int[np.ndarray, " t"], period: int) -> list[tuple[int, int]]:
    """Return where tokens have a period for several rounds: start and end of each such run."""
    changes = np.flatnonzero(ids[period:] != ids[:-period])
    starts = np.concatenate(([0], changes + 1))
    ends = np.concatenate((changes, [len(ids) - period])) + period
    long = ends - starts >= _ROUNDS * period
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))


def _is_loop(words: Sequence[str], exact: Sequence[str], period: int) -> bool:
    """Whether tokens with this period are a loop: they come round often enough."""
    rounds = len(words) // period
    if rounds < _ROUNDS:
        return False
    if set(words[:period]) == {_NUMBER}:
        return False  # a table of numbers
    least = _LEAST_ROUNDS.get(period, _ROUNDS)
    changed = [at for at in range(period, len(exact)) if exact[at] != exact[at - period]]
    if not changed:
        return rounds >= least
    # One number, which counts the rounds: two numbers are data, such as boxes of objects.
    is_counted = len({at % period for at in changed}) == 1 and all(
        len(exact[at]) <= _COUNTER_DIGITS and int(exact[at]) == int(exact[at - period]) + 1
        for at in changed
    )
    return is_counted and rounds >= _NUMBERED_ROUNDS


def _find_sentence_loop(answer: str) -> int | None:
    """Find sentences that return again and again, in any order."""
    seen: set[str] = set()
    repeats: list[int] = []
    num_sentences = start = 0
    for end in [*(mark.end() for mark in _SENTENCES.finditer(answer)), len(answer)]:
        words = [token[0].casefold() for token in _TOKEN.finditer(answer[start:end])]
        sentence = " ".join(words)
        if len(words) >= _SENTENCE_WORDS:
            num_sentences += 1
            if sentence in seen:
                repeats.append(start)
            seen.add(sentence)
        start = end
    if num_sentences < _LEAST_SENTENCES or len(seen) > _MAX_DISTINCT_SHARE * num_sentences:
        return None
    return repeats[0]
