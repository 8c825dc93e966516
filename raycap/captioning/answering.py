"""From the answer of a model to the columns of its row: its value, or its text by the rules.

An answer to a prompt with a type becomes a value of that type. Any other becomes a caption by the
rules in `text`. If that is not possible, the row fails with a code, as it does for a bad image.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raycap import schema
from raycap.answers.typed import AnswerType, answer_type, as_text, dump
from raycap.answers.wording import Wording
from raycap.captioning.loading import failure
from raycap.captioning.prompts import Prompt
from raycap.config import TextConfig
from raycap.errors import ImageError
from raycap.models.base import Caption
from raycap.text import count_words


class AnswerRules:
    """The rules of a run for its answers."""

    def __init__(self, text: TextConfig, prompts: Sequence[Prompt]) -> None:
        """Prepare the rules for each prompt of the run."""
        self._keeps_answer = text.keep_answer
        self._wording = Wording(text)
        self._types = [
            None if prompt.json_schema is None else answer_type(prompt.json_schema)
            for prompt in prompts
        ]

    def columns(self, caption: Caption, prompt: int) -> dict[str, Any]:
        """Return the columns of a row.

        Args:
            caption: The model's answer.
            prompt: Index of the prompt that it answers.
        """
        kept = kept_columns(caption) if self._keeps_answer else {}
        kind = self._types[prompt]
        try:
            found = (
                worded_columns(caption, self._wording) if kind is None else _typed(caption, kind)
            )
        except ImageError as error:
            return {**told_columns(caption), **failure(error), **kept}
        return {**found, **kept}


def caption_columns(caption: Caption) -> dict[str, Any]:
    """Return the columns of a captioned row."""
    return {
        schema.CAPTION: caption.text,
        schema.NUM_WORDS: count_words(caption.text),
        schema.LOGPROB: caption.logprob,
        schema.ALTERNATIVES: [
            {schema.CAPTION: other.text, schema.LOGPROB: other.logprob}
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
            {schema.ANSWER: other.text, schema.LOGPROB: other.logprob}
            for other in caption.alternatives
        ],
    }


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


def _typed(caption: Caption, kind: AnswerType) -> dict[str, Any]:
    """Return the columns of an answer with a type; its alternatives have no place there.

    Raises:
        ImageError: it is not of the type.
    """
    value = kind.parse(caption.text)
    text = replace(caption, text=as_text(value), alternatives=())
    return {**caption_columns(text), schema.VALUE: dump(value)}
