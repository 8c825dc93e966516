"""Counting words in captions, shortening text, and durations as text."""

import re

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  a typographic apostrophe is intended


def count_words(caption: str) -> int:
    """Count words: runs of letters and digits, with inner apostrophes and hyphens."""
    return len(_WORD.findall(caption))


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
