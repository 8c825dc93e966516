"""The language of answers, detected by py3langid: 139 languages, without any download.

The detector sometimes misjudges short texts and related languages (Danish and Norwegian). An answer
therefore counts as written in another language only if the language that was asked for is far less
likely than the best one.
"""

import re
from collections.abc import Callable
from functools import cache

from raycap.errors import ConfigError

_LEAST_LETTERS = 12
_LEAST_LETTERS_WITHOUT_SPACES = 5
_UNLIKELIER = 8.0
_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0eff]")
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|„[^“”\n]*[“”]|「[^」\n]*」")
_CODE = re.compile(r"\s*(?:```|[\[{])")
_LETTER = re.compile(r"[^\W\d_]")

Rank = Callable[[str], list[tuple[str, float]]]


def check_language(language: str | None) -> None:
    """Make sure that the language of answers can be told.

    Raises:
        ConfigError: the extra is not installed, or there is no such language.
    """
    if language is None:
        return
    known = sorted(code for code, _ in _rank()("any"))
    if language not in known:
        raise ConfigError(
            f"answers.language={language} is not one of: {', '.join(known)}",
            setting="answers.language",
        )


def is_in_another_language(text: str, language: str) -> bool:
    """Whether a text is clearly written in another language than this one.

    What stands in quotation marks does not count: signs have any language. Too few letters tell
    nothing, nor does JSON or code.
    """
    if _CODE.match(text):
        return False
    text = _QUOTED.sub(" ", text)
    is_dense = _WITHOUT_SPACES.search(text) is not None
    least = _LEAST_LETTERS_WITHOUT_SPACES if is_dense else _LEAST_LETTERS
    if len(_LETTER.findall(text)) < least:
        return False
    ranked = _rank()(text)
    shares = dict(ranked)
    return ranked[0][1] > _UNLIKELIER * shares[language]


@cache
def _rank() -> Rank:
    """Load the model, which takes a second: only in processes that tell languages."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415  an extra
    except ImportError:
        raise ConfigError(
            "answers.language needs py3langid: pip install 'raycap[language]', or unset it",
            setting="answers.language",
        ) from None
    rank: Rank = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).rank
    return rank
