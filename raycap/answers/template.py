"""Prompts with fields: `{tags}` is replaced by what is known of the image.

A template is parsed once and filled per image. Its syntax is that of plain prompts, plus:

- `{name}` is a field;
- `[[ text with {fields} ]]` is a clause, which is left out if a field in it is missing;
- `{{name}}` is the literal text `{name}`.

All other braces and brackets are literal, so that examples of JSON need no escaping. Values are
data: they are inserted last, so braces in them mean nothing, and `as_text` bounds and cleans them.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycap.config import MissingContext
from raycap.errors import ErrorCode, ImageError

_NAME = r"[^\W\d][\w.\-]*"
_PLACEHOLDER = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")
_CLAUSE = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)

# Marks of chat formats, such as <image>, <|im_end|> and [INST]: a model would obey them.
_MARK = re.compile(r"<(/?[|\uff5c]?[^\W\d][\w|:\u2581\uff5c\-]*/?)>|\[(/?[A-Z][A-Z_]+)\]")
# Joiners are part of words in some scripts, and of emoji; other format characters hide text.
_JOINERS = "\u200c\u200d"
_REMOVED = frozenset({"Cc", "Cf", "Cs"})


@dataclass(frozen=True, slots=True)
class Field:
    """The place of a value."""

    name: str


@dataclass(frozen=True, slots=True)
class Clause:
    """Text and fields, one after the other."""

    pieces: tuple[str | Field, ...]
    is_optional: bool
    """Whether it is left out if a field in it is missing."""

    @property
    def fields(self) -> Iterator[str]:
        """The names of its fields."""
        return (piece.name for piece in self.pieces if isinstance(piece, Field))


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with fields."""

    clauses: tuple[Clause, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a prompt. Every text is a template; one without fields stands for itself."""
        if not any(found[2] for found in _PLACEHOLDER.finditer(text)):
            return cls.plain(text)
        clauses = []
        end = 0
        for found in _CLAUSE.finditer(text):
            inner = _pieces(found[1])
            if not any(isinstance(piece, Field) for piece in inner):
                continue  # literal brackets
            clauses.append(Clause(_pieces(text[end : found.start()]), is_optional=False))
            clauses.append(Clause(inner, is_optional=True))
            end = found.end()
        clauses.append(Clause(_pieces(text[end:]), is_optional=False))
        return cls(tuple(clause for clause in clauses if clause.pieces))

    @classmethod
    def plain(cls, text: str) -> "Template":
        """Return a template without fields, whatever is in the text."""
        return cls((Clause((text,), is_optional=False),))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, each once, in order."""
        return tuple(dict.fromkeys(name for clause in self.clauses for name in clause.fields))

    def fill(self, values: Mapping[str, str], missing: MissingContext) -> str:
        """Insert values.

        Args:
            values: Cleaned by `as_text`; a field without one is missing.
            missing: What becomes of missing fields, as `source.missing_context`.

        Raises:
            ImageError: `no_context`: a field outside of clauses is missing, and `missing` is
                `fail`.
        """
        return "".join(_filled(clause, values, missing) for clause in self.clauses)


def _pieces(text: str) -> tuple[str | Field, ...]:
    pieces: list[str | Field] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        literal = text[end : found.start()] + (f"{{{found[1]}}}" if found[1] else "")
        pieces += [literal, Field(found[2])] if found[2] else [literal]
        end = found.end()
    return tuple(piece for piece in (*pieces, text[end:]) if piece != "")


def _filled(clause: Clause, values: Mapping[str, str], missing: MissingContext) -> str:
    absent = [name for name in clause.fields if name not in values]
    if absent and clause.is_optional and missing != "empty":
        return ""
    if absent and missing == "fail":
        raise ImageError(ErrorCode.NO_CONTEXT, f"no value for {', '.join(absent)}")
    return "".join(
        _without_marks(values.get(piece.name, "")) if isinstance(piece, Field) else piece
        for piece in clause.pieces
    )


def _without_marks(value: str) -> str:
    """Take the brackets off words that are marks of a chat format."""
    return _MARK.sub(lambda found: (found[1] or found[2]).strip("|\uff5c/"), value)


def as_text(value: Any, max_chars: int) -> str | None:
    """Return a value on one line, as it is inserted; None if it is missing.

    Control characters and invisible ones are removed, and white space is collapsed. Lists are
    joined with commas.

    Args:
        value: Of a table, of JSON or of EXIF.
        max_chars: Longer text is cut.
    """
    text = " ".join(_plain(value, max_chars).split())
    return text[:max_chars].rstrip() or None


def _plain(value: Any, max_chars: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_joined(value, max_chars))
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, dict | bool):
        value = json.dumps(value, ensure_ascii=False, default=str)
    # Far more than is kept, so that a value of any size costs little.
    text = str(value)[: 4 * max_chars + 1_024]
    return text if text.isprintable() else "".join(map(_visible, text))


def _joined(values: Iterable[Any], max_chars: int) -> Iterator[str]:
    num_chars = 0
    for value in values:
        if text := as_text(value, max_chars):
            yield text
            num_chars += len(text)
        if num_chars > max_chars:
            return


def _visible(char: str) -> str:
    if char.isspace():
        return " "
    is_removed = unicodedata.category(char) in _REMOVED and char not in _JOINERS
    return "" if is_removed else char
