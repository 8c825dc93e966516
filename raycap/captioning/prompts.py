"""The prompts of a run: what is asked about each image.

A run without named prompts has one, `generation.prompt`, which belongs to its fingerprint. Named
prompts do not: each captions part records the digest of every prompt that its rows answer, so that
a prompt that is added or changed later is asked alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raycap.answers.template import Template
from raycap.answers.typed import AnswerType, choices_schema, dump, read_schema
from raycap.config import CaptionConfig, PromptConfig, SourceConfig
from raycap.models.base import Question, Questions
from raycap.parsing import parse_json
from raycap.runs.records import fingerprint_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledBy:
    """The settings that decide what is filled into a prompt with fields."""

    origin: str
    """As `source.context`, settled."""
    missing: str
    max_chars: int

    @classmethod
    def of(cls, text: str, source: SourceConfig) -> "FilledBy | None":
        """Return the settings for a prompt; None if it has no fields."""
        if source.context == "off" or not Template.parse(text).fields:
            return None
        return cls(
            origin=source.context,
            missing=source.missing_context,
            max_chars=source.max_context_chars,
        )

    def describe(self) -> dict[str, Any]:
        """Return plain values, for fingerprints."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a run."""

    name: str
    """Of its column; empty for the only prompt of a run."""
    text: str
    max_new_tokens: int | None = None
    json_schema: str | None = None
    """JSON schema of a typed answer, as JSON."""
    context: FilledBy | None = None
    """How its fields are filled in; None if it has none."""

    @property
    def digest(self) -> str:
        """What decides its answers, besides the fingerprint of the run."""
        found: dict[str, Any] = {
            "text": self.text,
            "max_new_tokens": self.max_new_tokens,
            "json_schema": self.json_schema,
        }
        if self.context is not None:
            found["context"] = self.context.describe()
        return fingerprint_digest(found)

    def question(self, text: str) -> Question:
        """Return the question with a text, which is that of the prompt filled in for an image."""
        return Question(text=text, max_new_tokens=self.max_new_tokens, json_schema=self.json_schema)


def prompts_of(config: CaptionConfig) -> tuple[Prompt, ...]:
    """Return the prompts of a run."""
    if not config.prompts:
        text = config.generation.prompt
        return (Prompt(name="", text=text, context=FilledBy.of(text, config.source)),)
    return tuple(
        Prompt(
            name=name,
            text=prompt.text,
            max_new_tokens=prompt.max_new_tokens,
            json_schema=_schema_of(name, prompt),
            context=FilledBy.of(prompt.text, config.source),
        )
        for name, prompt in config.prompts.items()
    )


def settled_prompts(config: CaptionConfig) -> dict[str, PromptConfig]:
    """Return the named prompts with the schemas of files in place, so that nodes need no files.

    Raises:
        ConfigError: a file cannot be read, or a schema is wrong or not supported.
    """
    settled = {}
    for name, prompt in config.prompts.items():
        json_schema = _schema_of(name, prompt)
        if json_schema is not None:
            AnswerType(parse_json(json_schema), _setting(name))
        if isinstance(prompt.json_schema, str):
            prompt = prompt.model_copy(update={"json_schema": parse_json(json_schema or "")})
        settled[name] = prompt
    return settled


def _schema_of(name: str, prompt: PromptConfig) -> str | None:
    if prompt.choices is not None:
        return dump(choices_schema(prompt.choices))
    if prompt.json_schema is None:
        return None
    return dump(read_schema(prompt.json_schema, _setting(name)))


def _setting(name: str) -> str:
    return f"prompts.{name}.json_schema"


def prompt_digests(config: CaptionConfig) -> dict[str, str]:
    """Return the digests of the named prompts of a run, in order."""
    return {prompt.name: prompt.digest for prompt in prompts_of(config) if prompt.name}


def is_named(prompts: Sequence[Prompt]) -> bool:
    """Whether the prompts of a run have names, and thus columns of their own."""
    return bool(prompts[0].name)


def constant_questions(prompts: Sequence[Prompt], num_images: int) -> Questions | None:
    """Return the questions about images of which nothing is known; None without named prompts."""
    if not is_named(prompts):
        return None
    return [[prompt.question(prompt.text) for prompt in prompts]] * num_images
