"""Settings of the text after the model."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from regex import compile as compile_pattern
from regex import error as PatternError

from raycap.config.base import Section


class Replacement(Section):
    """A text to replace, wherever it occurs."""

    # `with` is a keyword of Python, so the field has another name there.
    model_config = ConfigDict(
        serialize_by_alias=True, validate_by_alias=True, validate_by_name=True
    )

    find: str = Field(min_length=1)
    """The text, or the regular expression, to find. Upper and lower case differ; a regular
    expression that begins with `(?i)` ignores that."""
    replacement: str = Field(default="", alias="with")
    """The text to put there. Of a regular expression, `\\1` or `\\g<name>` is a group."""
    regex: bool = False
    """Whether `find` is a regular expression, in the syntax of Python's `regex` package."""

    @model_validator(mode="after")
    def _can_be_applied(self) -> "Replacement":
        if self.regex:
            try:
                compile_pattern(self.find)
                # A replacement is looked at only where something is found: so find nothing, too.
                compile_pattern(f"(?:{self.find}\n)|").sub(self.replacement, "")
            except (PatternError, IndexError) as error:
                raise ValueError(
                    f"not a valid regular expression or replacement: {error}"
                ) from None
        return self


class TextConfig(Section):
    """Rules for the text of answers, applied after the model in the order of this list."""

    whitespace: Literal["keep", "collapse"] = "keep"
    """`collapse`: one space for each run of spaces and line breaks, before and after `replace`;
    none at the ends. `keep`: as the model wrote it."""
    strip_openers: bool = False
    """Remove phrases such as "The image shows", "This is a photo of" or "Here is a caption:" from
    the start; the text that follows begins with a capital letter if the phrase did."""
    openers: list[str] = Field(default_factory=list)
    """Further phrases to remove from the start, in upper or lower case."""
    replace: list[Replacement] = Field(default_factory=list)
    """Texts to replace, one after the other, such as `[{find: "colour", with: "color"}]`."""
    max_words: int | None = Field(default=None, ge=1)
    """Keep as many whole sentences as have this many words together; of a longer first sentence,
    its first words. None: no limit."""
    case: Literal["keep", "lower", "upper", "sentence"] = "keep"
    """Change the case of letters: `lower`, `upper`, or `sentence`, with a capital letter only at
    the start of each sentence (names lose theirs)."""
    prefix: str = ""
    """Text to put in front, with the space that it needs."""
    suffix: str = ""
    """Text to put behind."""
    keep_answer: bool = False
    """Keep the answer before these rules in the column `answer`. Needed to apply other rules
    again, by `raycap caption --again text`."""

    @model_validator(mode="after")
    def _consistent(self) -> "TextConfig":
        if not all(map(str.strip, self.openers)):
            raise ValueError("openers must not be blank")
        return self

    def rules(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, for the fingerprint of a run."""
        return self.model_dump(mode="json", exclude_defaults=True)
