"""From the answer of a model to the columns of its row: the gate, then its value or its text.

The gate judges each answer first. An answer to a prompt with a type then becomes a value of that
type; any other becomes a caption by the rules in `text`. If that is not possible, the row fails
with a code, as it does for a bad image. The stage asks a question once more where the gate says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raycap import schema
from raycap.answers.gate import FINISH_LENGTH, Gate, Verdict
from raycap.answers.typed import AnswerType, answer_type, as_text, dump
from raycap.answers.wording import Wording
from raycap.captioning.columns import failure
from raycap.captioning.prompts import Prompt
from raycap.config import CaptionConfig
from raycap.errors import ErrorCode, ImageError
from raycap.models.base import Caption, Question
from raycap.models.kinds import find_kind
from raycap.text import count_words

if TYPE_CHECKING:
    from raycap.captioning.loading import RunSpec  # imports Ray

Asked = tuple[tuple[int, ...], list[Question]]
"""What is asked about an image: the indices of the prompts, and the complete questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An answer with the verdict on it, and the columns of its row."""

    verdict: Verdict
    columns: dict[str, Any]

    @property
    def asks_again(self) -> bool:
        """Whether to ask once more (`AnswerRules.again`) and `settle` the two answers."""
        return self.verdict.asks_again

    def settle(self, second: "Judged") -> "Judged":
        """Return the better of two answers to a question."""
        return second if self.verdict.settle(second.verdict) is second.verdict else self


class AnswerRules:
    """The rules of a run for its answers: the gate, the types, and the rules for the text."""

    def __init__(self, config: CaptionConfig, prompts: Sequence[Prompt], kind: str) -> None:
        """Prepare the rules.

        Args:
            config: All settings.
            prompts: Of the run.
            kind: Name of the kind of the model.
        """
        self._generation = config.generation
        self._keeps_answer = config.text.keep_answer
        self._wording = Wording(config.text)
        self._prompts = prompts
        self.only_question: Asked = ((0,), [prompts[0].question(prompts[0].text)])
        """What is asked about each image in a run with one constant prompt."""
        self._types = [
            None if prompt.json_schema is None else answer_type(prompt.json_schema)
            for prompt in prompts
        ]
        self.gate = Gate(
            config.answers,
            is_fixed_style=not find_kind(kind).answers_freely,
            is_repeatable=not config.generation.sampling.enabled,
        )

    @classmethod
    def of(cls, spec: "RunSpec") -> "AnswerRules":
        """Return the rules of a run."""
        return cls(spec.config, spec.prompts, spec.model.kind)

    def judge(self, caption: Caption, prompt: int, asked: str | None = None) -> Judged:
        """Judge an answer, and return it with the columns of its row.

        Args:
            caption: The model's answer.
            prompt: Index of the prompt that it answers.
            asked: The text of the question; None for that of the prompt.
        """
        asked = self._prompts[prompt].text if asked is None else asked
        kind = self._types[prompt]
        if kind is None:
            verdict = self._verdict(caption, asked)
            kept = self._kept(caption, verdict, asked)
            columns = {} if verdict.error else self._worded(kept, verdict)
        else:
            verdict, columns = self._typed(caption, kind, asked)
            kept = replace(caption, alternatives=())
        if verdict.error is not None:
            columns = {**told_columns(caption), **failure(verdict.error)}
        answers = kept_columns(kept) if self._keeps_answer else {}
        return Judged(verdict=verdict, columns={**columns, **answers})

    def again(self, question: Question) -> Question:
        """Return a question to ask once more: with twice the tokens, and another seed."""
        num_tokens = question.max_new_tokens or self._generation.max_new_tokens
        seed = self._generation.sampling.seed if question.seed is None else question.seed
        return replace(question, max_new_tokens=2 * num_tokens, is_shortened=True, seed=seed + 1)

    def _verdict(self, caption: Caption, asked: str, *, is_typed: bool = False) -> Verdict:
        return self.gate.judge(caption.text, finish=caption.finish, prompt=asked, is_typed=is_typed)

    def _kept(self, caption: Caption, verdict: Verdict, asked: str) -> Caption:
        """Return what the gate keeps of an answer and of its alternatives.

        A failed answer is returned as the model wrote it; its row shows why it failed.
        """
        if verdict.error is not None:
            return replace(caption, alternatives=())
        judged = [(other, self._verdict(other, asked)) for other in caption.alternatives]
        others = [replace(other, text=one.text) for other, one in judged if one.error is None]
        return replace(caption, text=verdict.text, alternatives=tuple(others))

    def _worded(self, kept: Caption, verdict: Verdict) -> dict[str, Any]:
        """Return the columns of an answer that is kept, by the rules for its text."""
        try:
            return {**worded_columns(kept, self._wording), **_flag(verdict)}
        except ImageError as error:
            return {**told_columns(kept), **failure(error)}

    def _typed(
        self, caption: Caption, kind: AnswerType, asked: str
    ) -> tuple[Verdict, dict[str, Any]]:
        """Judge an answer with a type; return the columns of a kept one, with its value."""
        verdict = self._verdict(caption, asked, is_typed=True)
        plain = replace(caption, text=verdict.text, alternatives=())
        try:
            value = kind.parse(verdict.text)
        except ImageError as error:
            if verdict.code is None:
                verdict = self._wrong_type(plain, error)
            return verdict, {**caption_columns(plain), **_flag(verdict)}
        text = replace(plain, text=as_text(value))
        return verdict, {**caption_columns(text), schema.VALUE: dump(value), **_flag(verdict)}

    def _wrong_type(self, plain: Caption, error: ImageError) -> Verdict:
        is_cut = plain.finish == FINISH_LENGTH
        more = " (it reached the maximum of tokens: raise max_new_tokens)" if is_cut else ""
        return self.gate.found(
            ErrorCode.WRONG_TYPE, plain.text, finish=plain.finish, reason=f"{error.message}{more}"
        )


def _flag(verdict: Verdict) -> dict[str, Any]:
    return {} if verdict.code is None else {schema.FLAG: str(verdict.code)}


AskAgain = Callable[[list[int], list[Question]], list[Caption | ImageError]]
"""Asks one question each about images, given by their positions."""


def judge_all(
    rules: AnswerRules,
    outcomes: Sequence[Sequence[Caption] | ImageError],
    asked: Sequence[Asked],
    ask_again: AskAgain | None,
) -> list[list[Judged] | ImageError]:
    """Judge the answers about some images, and ask once more where the gate says so.

    Args:
        rules: Of the run.
        outcomes: The answers by image, or why it has none.
        asked: The questions by image.
        ask_again: Asks the model; None if it takes no questions: then the first answers count.
    """
    judged: list[list[Judged] | ImageError] = []
    again: list[tuple[int, int]] = []
    for image, (outcome, (indices, questions)) in enumerate(zip(outcomes, asked, strict=True)):
        if isinstance(outcome, ImageError):
            judged.append(outcome)
            continue
        answers = [
            rules.judge(caption, prompt, question.text)
            for caption, prompt, question in zip(outcome, indices, questions, strict=True)
        ]
        again += [(image, place) for place, one in enumerate(answers) if one.asks_again]
        judged.append(answers)
    if again and ask_again is not None:
        _settle(rules, judged, asked, again, ask_again)
    return judged


def _settle(
    rules: AnswerRules,
    judged: list[list[Judged] | ImageError],
    asked: Sequence[Asked],
    again: list[tuple[int, int]],
    ask_again: AskAgain,
) -> None:
    """Ask some questions once more, and keep the better answers."""
    questions = [rules.again(asked[image][1][place]) for image, place in again]
    found = ask_again([image for image, _ in again], questions)
    for (image, place), question, caption in zip(again, questions, found, strict=True):
        of_image = judged[image]
        # An image that the model rejects now has its first answer.
        if isinstance(of_image, list) and isinstance(caption, Caption):
            second = rules.judge(caption, asked[image][0][place], question.text)
            of_image[place] = of_image[place].settle(second)


def caption_columns(caption: Caption) -> dict[str, Any]:
    """Return the columns of a captioned row."""
    return {
        schema.CAPTION: caption.text,
        schema.NUM_WORDS: count_words(caption.text),
        schema.LOGPROB: _logprob(caption),
        schema.ALTERNATIVES: [
            {schema.CAPTION: other.text, schema.LOGPROB: _logprob(other)}
            for other in caption.alternatives
        ],
        **told_columns(caption),
    }


def told_columns(caption: Caption) -> dict[str, Any]:
    """Return the columns that say how an answer came about, which a failed one has, too."""
    return {
        schema.FINISH: caption.finish,
        schema.NUM_TOKENS: caption.num_tokens,
        schema.NUM_PROMPT_TOKENS: caption.num_prompt_tokens,
    }


def kept_columns(caption: Caption) -> dict[str, Any]:
    """Return the columns with what the model wrote."""
    return {
        schema.ANSWER: caption.text,
        schema.OTHER_ANSWERS: [
            {schema.ANSWER: other.text, schema.LOGPROB: _logprob(other)}
            for other in caption.alternatives
        ],
    }


def _logprob(caption: Caption) -> float | None:
    return None if math.isnan(caption.logprob) else caption.logprob


def worded_columns(caption: Caption, wording: Wording) -> dict[str, Any]:
    """Return the columns of an answer by the rules for its text.

    An alternative of which the rules leave nothing is left out.

    Raises:
        ImageError: the rules leave nothing, or take too long.
    """
    text = wording(caption.text)
    others = []
    for other in caption.alternatives:
        try:
            others.append(replace(other, text=wording(other.text)))
        except ImageError:
            continue  # the row has its caption
    return caption_columns(replace(caption, text=text, alternatives=tuple(others)))
