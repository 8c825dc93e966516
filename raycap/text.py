"""Words of captions, and texts that must be short."""

import re

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  a typographic apostrophe is meant


def count_words(caption: str) -> int:
    """Count words: runs of letters and digits, with inner apostrophes and hyphens."""
    return len(_WORD.findall(caption))


def brief(text: str, most: int) -> str:
    """Write a text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
