"""Answers that only repeat their prompt, as models do that were not trained to follow it."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]|[^\W_\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]+"
)
_TEMPLATE_WORDS = ["user", "human", "assistant", "prompt", "question", "inst", "image"]
_ROLES = frozenset([*_TEMPLATE_WORDS, "answer", "response", "caption"])
"""Words of chat templates around a prompt."""
_LEAST_TOKENS = 3  # an answer may have the two words of its prompt
_LEAST_SHARE = 0.8
_LEAST_LIKENESS = 0.9


def is_copy(answer: str, prompt: str) -> bool:
    """Whether an answer is its prompt, once or several times, or nearly, and adds nothing."""
    asked = _tokens(prompt)
    said = _tokens(answer)
    if len(asked) < _LEAST_TOKENS or len(said) > 20 * len(asked):
        return False
    bare = [token for token in said if token not in _ROLES]
    rest = _without(bare, [token for token in asked if token not in _ROLES])
    if rest is not None:
        return not rest
    return _is_part(said, asked) or _is_alike(said, asked)


def _tokens(text: str) -> list[str]:
    return [token[0].casefold() for token in _TOKEN.finditer(text)]


def _without(said: Sequence[str], asked: Sequence[str]) -> Sequence[str] | None:
    """Return what an answer adds to its prompt, once or several times; None if it differs."""
    if not asked or list(said[: len(asked)]) != list(asked):
        return None
    while list(said[: len(asked)]) == list(asked):
        said = said[len(asked) :]
    return said if list(asked[: len(said)]) != list(said) else []  # the last round may be cut


def _is_part(said: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether an answer is most of its prompt, word by word."""
    if not _LEAST_SHARE * len(asked) <= len(said) <= len(asked) or len(said) < _LEAST_TOKENS:
        return False
    wanted = list(said)
    return any(
        list(asked[start : start + len(said)]) == wanted
        for start in range(len(asked) - len(said) + 1)
    )


def _is_alike(said: Sequence[str], asked: Sequence[str]) -> bool:
    if len(said) < 2 * _LEAST_TOKENS:
        return False
    likeness = SequenceMatcher(None, said, asked, autojunk=False)
    return likeness.real_quick_ratio() >= _LEAST_LIKENESS <= likeness.ratio()
