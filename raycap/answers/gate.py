"""The answer gate: judges each answer of a model, and says what to keep of it.

Answers are judged as text, with how their generation ended. What happens to a bad one is a setting
per code (`config.answers`); the defaults depend on whether the model answers freely or writes in a
fixed style. The gate asks nobody: it only says that the question should be asked again.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raycap.answers.copying import is_copy
from raycap.answers.language import is_in_another_language
from raycap.answers.loops import find_loop
from raycap.answers.reasoning import without_reasoning, without_special_tokens
from raycap.answers.refusals import is_refusal
from raycap.config import AnswersConfig
from raycap.errors import ANSWER_CODES, ErrorCode, ImageError
from raycap.text import brief, sentence_ends, word_ends

Outcome = Literal["keep", "cut", "fail"]

FINISH_LENGTH = "length"
"""How an answer ended that reached the maximum number of tokens."""
FINISH_FILTERED = "content_filter"
"""How an answer ended that a server withheld."""

FREE_ANSWERS: Mapping[ErrorCode, str] = {
    ErrorCode.TRUNCATED: "retry_cut",
    ErrorCode.REFUSED: "fail",
    ErrorCode.EMPTY_ANSWER: "retry_fail",
    ErrorCode.REASONING_ONLY: "retry_fail",
    ErrorCode.REPEATED: "retry_fail",
    ErrorCode.COPIED_PROMPT: "fail",
    ErrorCode.WRONG_TYPE: "retry_fail",
    ErrorCode.WRONG_LANGUAGE: "keep",
}
"""Default actions for models that answer freely: vision-language models."""

FIXED_STYLE: Mapping[ErrorCode, str] = {
    **dict.fromkeys(ANSWER_CODES, "keep"),
    ErrorCode.WRONG_TYPE: "fail",  # no caption: a value was asked for
}
"""Default actions for models that caption in the style of their training: bad captions are flagged
only, and no text changes."""

_REASONS = {
    ErrorCode.TRUNCATED: "the answer reached the maximum of tokens: raise max_new_tokens",
    ErrorCode.REFUSED: "the model refused",
    ErrorCode.EMPTY_ANSWER: "the answer is empty",
    ErrorCode.REASONING_ONLY: "the answer ends with the model's reasoning: raise max_new_tokens",
    ErrorCode.REPEATED: "the answer is a loop",
    ErrorCode.COPIED_PROMPT: "the answer repeats the prompt",
    ErrorCode.WRONG_TYPE: "the answer does not satisfy the JSON schema",
    ErrorCode.WRONG_LANGUAGE: "the answer is not in answers.language",
}
_OUTCOMES: Mapping[str, Outcome] = {"keep": "keep", "cut": "cut", "fail": "fail"}
_QUOTED_CHARACTERS = 120
_LEAST_MARKS = 20  # an answer of so many marks, of so few kinds, is a loop
_FEW_MARKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with an answer, and what to keep of it."""

    text: str
    """What to keep: without reasoning, and cut if that is the action."""
    code: ErrorCode | None = None
    """None: a good answer. Otherwise the row's flag, or its error code."""
    outcome: Outcome = "keep"
    asks_again: bool = False
    """Whether to ask the question once more first, with twice the tokens and another seed: then
    `settle` decides between the two answers."""
    reason: str = ""
    """In words."""

    @property
    def error(self) -> ImageError | None:
        """The failure of the row; None if the text is kept."""
        if self.code is None or self.outcome != "fail":
            return None
        return ImageError(self.code, self.reason)

    def settle(self, second: "Verdict") -> "Verdict":
        """Return the better verdict of two answers to a question: the second if in doubt."""
        return second if second._badness <= self._badness else self

    @property
    def _badness(self) -> int:
        return 0 if self.code is None else 2 if self.outcome == "fail" else 1


class Gate:
    """Judges the answers of a run."""

    def __init__(
        self, config: AnswersConfig, *, is_fixed_style: bool, is_repeatable: bool = False
    ) -> None:
        """Settle the action for each code.

        Args:
            config: The settings.
            is_fixed_style: Whether the model has a fixed style: chooses the default actions.
            is_repeatable: Whether the model gives the same answer to the same question, whatever
                the seed: then only an answer that needs more tokens is worth asking again.
        """
        defaults = FIXED_STYLE if is_fixed_style else FREE_ANSWERS
        self._actions: dict[ErrorCode, str] = {
            code: getattr(config, code) or defaults[code] for code in ANSWER_CODES
        }
        self._language = config.language
        self._is_repeatable = is_repeatable

    def judge(
        self, answer: str, *, finish: str | None, prompt: str, is_typed: bool = False
    ) -> Verdict:
        """Judge an answer.

        Args:
            answer: As the model wrote it.
            finish: `stop`, `length`, `content_filter`, or None if unknown.
            prompt: What was asked, complete.
            is_typed: Whether a JSON value is asked for: it may repeat itself and has no language,
                and its type shows whether it is complete.
        """
        text, has_reasoning = without_reasoning(answer)
        if finish == FINISH_FILTERED:
            return self.found(ErrorCode.REFUSED, text, finish=finish)
        if not _has_content(without_special_tokens(text)):
            return self.found(_emptiness(text, has_reasoning), text, finish=finish)
        if is_refusal(text):
            return self.found(ErrorCode.REFUSED, text, finish=finish)
        if is_copy(text, prompt):
            return self.found(ErrorCode.COPIED_PROMPT, text, finish=finish)
        if not is_typed and (loop := find_loop(text)) is not None:
            return self.found(ErrorCode.REPEATED, text, finish=finish, end=loop)
        if finish == FINISH_LENGTH and not is_typed:
            return self.found(ErrorCode.TRUNCATED, text, finish=finish)
        if self._language and not is_typed and is_in_another_language(text, self._language):
            return self.found(ErrorCode.WRONG_LANGUAGE, text, finish=finish)
        return Verdict(text=text)

    def found(
        self,
        code: ErrorCode,
        text: str,
        *,
        finish: str | None,
        reason: str = "",
        end: int | None = None,
    ) -> Verdict:
        """Return the verdict on an answer with a known fault, such as a wrong type.

        Args:
            code: The fault.
            text: The answer, without reasoning.
            finish: How it ended.
            reason: In words; empty for the code's own words.
            end: Where the part begins that `cut` removes; None for the end.
        """
        action = self._actions[code]
        outcome = _OUTCOMES[action.removeprefix("retry_")]
        quoted = f": {brief(text, _QUOTED_CHARACTERS)!r}" if text else ""
        return Verdict(
            text=cut(text, end) if outcome == "cut" else text,
            code=code,
            outcome=outcome,
            asks_again=action.startswith("retry_") and self._can_differ(code, finish),
            reason=reason or f"{_REASONS[code]}{quoted}",
        )

    def _can_differ(self, code: ErrorCode, finish: str | None) -> bool:
        if not self._is_repeatable:
            return True
        return finish == FINISH_LENGTH and code != ErrorCode.REPEATED


def cut(text: str, end: int | None = None) -> str:
    """Cut a text at its last complete sentence, or at its last complete word if it has none.

    Args:
        text: The text.
        end: Where its good part ends, with a complete word; None if the text itself is unfinished.
    """
    good = text[:end].rstrip()
    ends = [at for at in sentence_ends(good) if at < len(good) or _is_mark(good[:at])]
    if ends:
        return good[: ends[-1]].strip()
    words = [at for at in word_ends(good) if at < len(good) or end is not None]
    return good[: words[-1]].strip() if words else good


def _is_mark(text: str) -> bool:
    """Whether a text ends with punctuation, so that its last sentence is complete."""
    last = text.rstrip("\"'”’»)]」』）")[-1:]  # noqa: RUF001  marks of other scripts
    return last != "" and last in ".!?…。！？｡؟।"  # noqa: RUF001


def _emptiness(text: str, has_reasoning: bool) -> ErrorCode:
    """Return the code of an answer without content."""
    if len("".join(text.split())) >= _LEAST_MARKS and len(set(text)) <= _FEW_MARKS:
        return ErrorCode.REPEATED
    return ErrorCode.REASONING_ONLY if has_reasoning else ErrorCode.EMPTY_ANSWER


def _has_content(text: str) -> bool:
    """Whether a text has a letter, a digit or a symbol such as an emoji."""
    kinds = {unicodedata.category(character) for character in set(text)}
    return any(kind[0] in "LN" or kind == "So" for kind in kinds)
