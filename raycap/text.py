"""Words and sentences of captions, their script, shortening text, durations and amounts as text."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  a typographic apostrophe is intended


def count_words(caption: str) -> int:
    """Count words: runs of letters and digits, with inner apostrophes and hyphens."""
    return len(_WORD.findall(caption))


def word_ends(text: str) -> list[int]:
    """Return the offset behind each word of a text, as `count_words` counts them."""
    return [word.end() for word in _WORD.finditer(text)]


_END = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s|$)|[。！？｡؟।]+["'”’」』）]*|(?=\n)|$""")  # noqa: RUF001
_TITLES = ["mr", "mrs", "ms", "dr", "prof", "st", "mt", "sgt", "capt", "lt", "gen", "rev"]
_NEVER_LAST = frozenset([*_TITLES, "vs", "approx", "ca", "cf", "e.g", "i.e"])
_BEFORE_NUMBERS = frozenset(["no", "fig", "vol", "p", "pp"])
_SOMETIMES_LAST = frozenset(["etc", "inc", "ltd", "co", "jr", "sr", "a.m", "p.m"])
_LONGEST_WORD = 16


def sentence_ends(text: str) -> list[int]:
    """Return the offset behind each sentence of a text, of an unfinished last one too.

    A sentence ends at its punctuation or at a line break. Abbreviations such as "Dr." and initials
    do not end one, nor do dots within numbers, and three dots before a small letter.
    """
    ends: list[int] = []
    for found in _END.finditer(text):
        if text[ends[-1] if ends else 0 : found.end()].strip() and _is_end(text, found):
            ends.append(found.end())
    return ends


def _is_end(text: str, mark: re.Match[str]) -> bool:
    following = text[mark.end() : mark.end() + _LONGEST_WORD].lstrip()[:1]
    if not following or not mark[0].startswith((".", "…")):
        return True
    if mark[0][0] == "…" or mark[0].startswith(".."):
        return not following.islower()
    before = text[max(0, mark.start() - _LONGEST_WORD) : mark.start()].split()
    word = before[-1].lstrip("([\"'“‘") if before else ""  # noqa: RUF001
    if word.lower() in _BEFORE_NUMBERS:
        return not following.isdigit()
    if word.lower() in _SOMETIMES_LAST:
        return not following.islower()
    return word.lower() not in _NEVER_LAST and not (len(word) == 1 and word.isupper())


_NUM_LETTERS = 50
_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Han", "KATAKANA": "Han"}  # Japanese mixes them
_OF_NO_SCRIPT = frozenset({"FULLWIDTH", "HALFWIDTH", "MODIFIER", "MATHEMATICAL"})


def script_of(text: str) -> str | None:
    """Return the script of most letters of a text, such as `Latin`; None if it has no letter."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    letters = [character for character in text if character.isalpha()][:_NUM_LETTERS]
    scripts = Counter(filter(None, map(_script_of_letter, letters)))
    return scripts.most_common(1)[0][0] if scripts else None


@lru_cache(maxsize=65_536)
def _script_of_letter(letter: str) -> str | None:
    word = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
    return None if word in _OF_NO_SCRIPT or not word else _SCRIPTS.get(word, word.capitalize())


def brief(text: str, most: int) -> str:
    """Return a text as one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def duration(seconds: float | None) -> str:
    """Return `7.5 s`, `3.1 min` or `1.5 h`; `?` for None."""
    if seconds is None:
        return "?"
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


def amount(value: float) -> str:
    """Return hours or money: 12.345 as `12.35`, 0.00123 as `0.0012`."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"
