"""Words of captions."""

import re

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  a typographic apostrophe is meant


def count_words(caption: str) -> int:
    """Count words: runs of letters and digits, with inner apostrophes and hyphens."""
    return len(_WORD.findall(caption))
