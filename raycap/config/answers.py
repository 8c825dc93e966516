"""Settings of the answer gate: what to do with an answer that is no caption."""

from typing import Any, Literal

from pydantic import Field, field_validator

from raycap.config.base import Section

Action = Literal["keep", "cut", "fail", "retry_keep", "retry_cut", "retry_fail"]
"""What happens to a bad answer: `keep` it and flag its row, `cut` the bad part off and flag the
row, or `fail` the row; `retry_...` asks once more before that."""
ActionWithoutCut = Literal["keep", "fail", "retry_keep", "retry_fail"]
"""The same for an answer of which no part is good."""


class AnswersConfig(Section):
    """What to do with bad answers.

    Each can be kept and flagged (`keep`), cut and flagged (`cut`), or fail its row (`fail`); or the
    question is asked once more first, with twice the tokens and another seed (`retry_keep`,
    `retry_cut`, `retry_fail`). None: `keep` for models with a fixed style, such as BLIP; for
    vision-language models as each setting says.
    """

    truncated: Action | None = None
    """Answers that reached the maximum number of tokens; `cut`: at the last complete sentence, or
    at the last complete word if there is none. None: `retry_cut`."""
    refused: ActionWithoutCut | None = None
    """Refusals, such as "I'm sorry, but I can't assist with that". None: `fail`."""
    empty_answer: ActionWithoutCut | None = None
    """Answers without a letter or digit. None: `retry_fail`."""
    reasoning_only: ActionWithoutCut | None = None
    """Answers that consist of reasoning, such as a `<think>` block. None: `retry_fail`."""
    repeated: Action | None = None
    """Answers that loop; `cut`: where the loop begins. None: `retry_fail`."""
    copied_prompt: ActionWithoutCut | None = None
    """Answers that only repeat the prompt. None: `fail`."""
    wrong_type: ActionWithoutCut | None = None
    """Answers that do not satisfy the JSON schema of their prompt. None: `retry_fail`."""
    wrong_language: ActionWithoutCut | None = None
    """Answers in a language other than `language`. None: `keep`."""
    language: str | None = Field(default=None, examples=["en"])
    """Language that answers should have, as an ISO 639-1 code such as `en`. Needs the extra
    raycap[language]. None: any."""
    max_same_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Stop the run if more than this share of the last images, at least a thousand of them, have
    the same caption. None: only warn, if the model seems to ignore the images."""

    def rules(self) -> dict[str, Any]:
        """Return the settings that decide what becomes of answers, for the fingerprint of a run.

        Only those that are set, so that older runs can continue.
        """
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"max_same_share"})

    @field_validator("language")
    @classmethod
    def _is_code(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isalpha() and value.islower()):
            raise ValueError("must be an ISO 639-1 code in small letters, such as en or de")
        return value
