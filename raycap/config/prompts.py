"""Settings of named prompts."""

import re
from typing import Any

from pydantic import Field, model_validator

from raycap.config.base import Section

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class PromptConfig(Section):
    """One of several prompts about each image."""

    text: str
    """The prompt, as in `generation.prompt`."""
    max_new_tokens: int | None = Field(default=None, ge=1, le=32_768)
    """Longest answer in tokens. None: as in `generation.max_new_tokens`."""
    json_schema: dict[str, Any] | str | None = None
    """A JSON schema that every answer must satisfy, or the path of a JSON file with one: the answer
    becomes a typed value. None: the answer is text."""
    choices: list[str] | None = Field(default=None, min_length=1)
    """Short for the schema of a list of distinct texts, each of which is one of these. None: the
    answer is text, unless `json_schema` is set."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Read a plain text as a prompt without other settings."""
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "PromptConfig":
        if self.json_schema is not None and self.choices is not None:
            raise ValueError("json_schema and choices exclude each other: set one of them")
        return self


def check_prompt_names(names: list[str]) -> None:
    """Check that names of prompts can be names of columns.

    Raises:
        ValueError: one cannot.
    """
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"{name!r} cannot name a prompt: use a letter, then letters, digits and "
                "underscores, at most 64"
            )
