"""Counting words in captions, their script, shortening text, and durations as text."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  a typographic apostrophe is intended


def count_words(caption: str) -> int:
    """Count words: runs of letters and digits, with inner apostrophes and hyphens."""
    return len(_WORD.findall(caption))


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
