"""Text after the model: rules that turn an answer into a caption.

They are applied in this order: white space, openers, replacements, the number of words, case,
prefix and suffix. The result depends on the answer and the rules only, so the rules can be applied
again, and other ones later, to an answer that was kept.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import regex

from raycap.config.text import Replacement, TextConfig
from raycap.errors import ConfigError, ErrorCode, ImageError
from raycap.text import sentence_ends, word_ends

REPLACE_TIMEOUT_S = 2.0
"""Time that a regular expression may take for one answer. The library takes it as time of the
process, which passes faster where several threads compute."""

_PICTURE = (
    r"(?:(?:digital|vector|still|close-up|stock) )?(?:image|photo|photograph|picture|pic|snapshot"
    r"|illustration|drawing|painting|artwork|scene|screenshot|graphic|visual)"
)
_THIS = rf"(?:the|this|that|the given|the provided) {_PICTURE}"
_SHOWS = (
    r"(?:clearly |prominently |mainly |primarily )?(?:shows?|showing|showcases?|depicts?|depicting"
    r"|displays?|displaying|features?|featuring|portrays?|presents?|captures?|contains?"
    r"|illustrates?|represents?)(?: us)?"
)
_NO_CLAUSE = r"(?! (?:how|what|why|where|when|whether|which|who)\b)"

OPENERS = (
    r"(?:sure|certainly|of course|okay|ok|absolutely)[,.!:]+",
    r"[*_#]*\s*(?:here (?:is|are)|here['’]s)(?: (?:a|an|the|your|my))?(?: \w+){0,2}"  # noqa: RUF001
    rf" (?:caption|description|alt[ -]text|summary)(?: (?:of|for) {_THIS})?:[*_]*",
    r"[*_#]*\s*(?:caption|description|alt[ -]text|answer):[*_]*",
    rf"{_THIS} is (?:a|an) {_PICTURE} (?:of|{_SHOWS})",
    rf"{_THIS} is (?:of|about)",
    rf"(?:this|it|that) is (?:a|an) {_PICTURE} (?:of|{_SHOWS})",
    rf"(?:a|an) {_PICTURE} (?:of|that {_SHOWS}|{_SHOWS})",
    rf"{_PICTURE} of(?= (?:a|an|two|three|four|five|some|several|many)\b)",
    rf"in {_THIS},? (?:(?:we|you|one|i) (?:can )?sees?|there (?:is|are))",
    rf"in {_THIS},",
    rf"{_THIS} {_SHOWS}(?: that)?{_NO_CLAUSE}:?",
    rf"(?:we|you|i) (?:can )?see(?: in {_THIS})?",
)
"""Phrases at the start of an answer that say nothing about the image, as regular expressions."""


class Wording:
    """The rules of a run for the text of its answers."""

    def __init__(self, config: TextConfig) -> None:
        openers = [*map(regex.escape, config.openers), *(OPENERS if config.strip_openers else ())]
        self._config = config
        self._opener = _opener(openers) if openers else None
        self._replacements = [_replacement(one) for one in config.replace]

    def __call__(self, answer: str) -> str:
        """Return the caption of an answer; of a blank answer, the answer.

        Raises:
            ImageError: a regular expression takes too long, or nothing is left of the answer.
        """
        if not answer.strip():
            return answer
        text = self._space(answer)
        if self._opener is not None:
            text = _without_openers(text, self._opener)
        for replace in self._replacements:
            text = replace(text)
        text = self._space(text)
        if self._config.max_words is not None:
            text = _cut(text, self._config.max_words)
        if not text.strip():
            raise ImageError(
                ErrorCode.TEXT_FAILED, "the rules of `text` leave nothing of the answer"
            )
        return self._config.prefix + _CASES[self._config.case](text) + self._config.suffix

    def _space(self, text: str) -> str:
        return " ".join(text.split()) if self._config.whitespace == "collapse" else text


def check_rules(config: TextConfig) -> None:
    """Try the regular expressions on texts that are hard for those which take exponential time.

    Raises:
        ConfigError: one takes too long.
    """
    for place, one in enumerate(config.replace):
        replace = _replacement(one)
        for hard in _HARD_TEXTS:
            started = time.monotonic()
            try:
                replace(hard)
            except ImageError:
                raise ConfigError(
                    f"text.replace.{place}: {one.find!r} is still searching a text of "
                    f"{len(hard):,} characters after {time.monotonic() - started:.0f} s; write it "
                    "without repetitions inside of repetitions, such as (a+)+",
                    setting=f"text.replace.{place}",
                ) from None


_HARD_TEXTS = (
    "a" * 1000 + "!",
    "0" * 1000 + "!",
    "a dog " * 200 + "!",
    " " * 1000 + "!",
    'A dog, a cat and 12 birds (on a wall) are here. It\'s 5:30 p.m.; the sign says "Open"! ' * 10,
)


def _opener(phrases: list[str]) -> regex.Pattern[str]:
    """Return the pattern of one of the phrases, not within a word, with what separates it."""
    spaced = "|".join(phrase.replace(r"\ ", " ").replace(" ", r"\s+") for phrase in phrases)
    return regex.compile(rf"\s*(?:{spaced})(?:(?<!\w)|(?!\w))[\s,:;–—]*", regex.IGNORECASE)  # noqa: RUF001


def _without_openers(text: str, opener: regex.Pattern[str]) -> str:
    """Remove phrases from the start, one after the other; a text that is only phrases stays."""
    rest = text
    while found := opener.match(rest):
        rest = rest[found.end() :]
    if rest == text or not rest.strip():
        return text
    first = _LETTER.search(text)
    return rest[:1].title() + rest[1:] if first and first[0].isupper() else rest


_LETTER = regex.compile(r"\p{L}")


def _replacement(one: Replacement) -> Callable[[str], str]:
    if not one.regex:
        return lambda text: text.replace(one.find, one.replacement)
    pattern = regex.compile(one.find)

    def replace(text: str) -> str:
        try:
            return pattern.sub(one.replacement, text, timeout=REPLACE_TIMEOUT_S)
        except TimeoutError:
            raise ImageError(
                ErrorCode.TEXT_FAILED,
                f"text.replace: {one.find!r} takes over {REPLACE_TIMEOUT_S:g} s for the answer",
            ) from None

    return replace


def _cut(text: str, max_words: int) -> str:
    """Return the first sentences that have at most so many words; if none has, the first words."""
    words = word_ends(text)
    if len(words) <= max_words:
        return text
    first_beyond = words[max_words]
    fitting = [end for end in sentence_ends(text) if end < first_beyond]
    return text[: fitting[-1]] if fitting else text[: words[max_words - 1]]


def _sentence_case(text: str) -> str:
    lowered = text.lower()
    starts = [0, *sentence_ends(lowered)]
    pieces = [lowered[start:end] for start, end in pairwise(starts)]
    return "".join(_LETTER.sub(lambda found: found[0].title(), one, count=1) for one in pieces)


_CASES: dict[str, Callable[[str], str]] = {
    "keep": str,
    "lower": str.lower,
    "upper": str.upper,
    "sentence": _sentence_case,
}
