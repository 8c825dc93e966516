"""Globs over keys: `a/*.jpg`, with the rules of Python's `glob`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from raycap.errors import ConfigError

WILDCARD = re.compile(r"[*?\[]")
"""What makes an address a glob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glob:
    """What a glob asks for, below its first wildcard."""

    matcher: re.Pattern[str]
    folders: frozenset[str]
    """The folders that it names: a system's folder is one to list only if it is named."""

    @classmethod
    def parse(cls, pattern: str, inner: str) -> "Glob":
        """Parse the part of a glob below its base. Raises ConfigError."""
        try:
            matcher = re.compile(_glob_regex(inner))
        except re.error as error:
            raise ConfigError(f"{pattern}: not a glob: {error}", uri=pattern) from error
        return cls(matcher=matcher, folders=frozenset(inner.split("/")[:-1]))


def enters(inner: str) -> Callable[[str], bool]:
    """Return which folders, by their keys, may hold files that match a glob."""
    *folders, _ = parts = inner.split("/")
    deep = parts.index("**") if "**" in parts else len(parts)
    names = [re.compile(_name_regex(name)) for name in folders[:deep]]

    def is_entered(key: str) -> bool:
        depth = key.count("/")
        if depth >= deep:
            return True
        return depth < len(names) and bool(names[depth].fullmatch(key.rpartition("/")[2]))

    return is_entered


def glob_base(pattern: str) -> str:
    """Return the folder above the first wildcard."""
    first = WILDCARD.search(pattern)
    return pattern[: first.start() if first else None].rpartition("/")[0]


def _glob_regex(pattern: str) -> str:
    """Translate a glob over keys to a regular expression, with the rules of Python's `glob`.

    `*`, `?` and `[...]` match within a folder, `**` matches any depth of folders; a leading dot is
    matched by a dot only.
    """
    *folders, name = pattern.split("/")
    above = "".join(_DEEP if f == "**" else _name_regex(f) + "/" for f in folders)
    return above + (_DEEP + _name_regex("*") if name == "**" else _name_regex(name))


_DEEP = r"(?:(?!\.)[^/]+/)*"
_WILD = re.compile(r"(\*+)|(\?)|\[(!?)(\][^\]]*|[^\]]+)\]|(.)", re.DOTALL)


def _name_regex(name: str) -> str:
    hides_dot = r"(?!\.)" if name.startswith(("*", "?", "[")) else ""
    return hides_dot + _WILD.sub(_wild_regex, name)


def _wild_regex(found: re.Match[str]) -> str:
    star, one, negated, chars, literal = found.groups()
    if literal:
        return re.escape(literal)
    if star or one:
        return "[^/]*" if star else "[^/]"
    escaped = "".join(char if char == "-" else re.escape(char) for char in chars)
    return f"[{'^/' if negated else ''}{escaped}]"
