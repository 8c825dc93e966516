"""What became of one image: the result of `raycap.Captioner.caption`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycap import schema
from raycap.errors import ErrorCode, ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another caption of an image."""

    text: str
    logprob: float | None
    """As of `CaptionResult`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionResult:
    """The caption of an image, or why it has none."""

    text: str | None
    """The caption; None if the image failed."""
    logprob: float | None = None
    """Mean log-probability of its tokens; None if unknown."""
    alternatives: tuple[Alternative, ...] = ()
    """Further captions, with `generation.num_captions`."""
    finish: str | None = None
    """How it ended: `stop`, or `length` if it reached the maximum of tokens; None if unknown."""
    num_tokens: int | None = None
    """Tokens of the caption; None if unknown."""
    num_prompt_tokens: int | None = None
    """Tokens that the model read; None if unknown."""
    flag: str | None = None
    """Code of a doubtful answer that was kept."""
    value: Any = None
    """Value of a typed answer."""
    answer: str | None = None
    """What the model wrote, with `text.keep_answer`."""
    error: ImageError | None = None
    """Why there is no caption, as `code` and `message`; None if there is one."""
    prompts: Mapping[str, "CaptionResult"] = field(default_factory=dict)
    """With named prompts, the answer to each by its name. The fields of the image are then those
    of the first prompt, and `error` is the first error of any."""

    @property
    def is_ok(self) -> bool:
        """Whether there is a caption, and an answer to every prompt."""
        return self.error is None

    @classmethod
    def of(cls, row: Mapping[str, Any], names: tuple[str, ...] = ()) -> "CaptionResult":
        """Return the result in a row of a captions part.

        Args:
            row: The row.
            names: Of the named prompts.
        """
        if not names:
            return _of_columns(row, row)
        prompts = {name: _of_columns(row[name], row[name]) for name in names}
        return _of_columns(row[names[0]], row, prompts)


def _of_columns(
    answer: Mapping[str, Any],
    row: Mapping[str, Any],
    prompts: Mapping[str, CaptionResult] | None = None,
) -> CaptionResult:
    code = row[schema.ERROR_CODE]
    error = None if code is None else ImageError(ErrorCode(code), row[schema.ERROR_MESSAGE])
    return CaptionResult(
        text=answer[schema.CAPTION],
        logprob=answer[schema.LOGPROB],
        alternatives=tuple(
            Alternative(text=other[schema.CAPTION], logprob=other[schema.LOGPROB])
            for other in answer[schema.ALTERNATIVES] or ()
        ),
        finish=answer[schema.FINISH],
        num_tokens=answer[schema.NUM_TOKENS],
        num_prompt_tokens=answer[schema.NUM_PROMPT_TOKENS],
        flag=answer[schema.FLAG],
        value=answer.get(schema.VALUE),
        answer=answer.get(schema.ANSWER),
        error=error,
        prompts=prompts or {},
    )
