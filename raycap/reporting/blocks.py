"""What sections of a page are made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Fact = tuple[str, str]
"""A name and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number to see at first sight."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Failed images of one error code."""

    code: str
    count: int
    share: float
    """Of all failures of the table, 0 to 1: the length of a bar."""
    examples: tuple[Fact, ...] = ()
    """Some of the images, with what was wrong with each."""


def failure_table(
    counts: Mapping[str, int], examples: Mapping[str, tuple[Fact, ...]] | None = None
) -> tuple[Failure, ...]:
    """Sort failures by how many there are.

    Args:
        counts: failed images by error code.
        examples: images and messages, by error code.
    """
    total = max(1, sum(counts.values()))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Failure(
            code=code, count=count, share=count / total, examples=(examples or {}).get(code, ())
        )
        for code, count in ordered
        if count
    )


def flat_facts(content: Mapping[str, Any], path: str = "") -> Iterator[Fact]:
    """Yield nested settings one by one, under names such as `generation.num_beams`."""
    for key, value in content.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat_facts(value, name)
        elif value is not None and value != {} and value != "":
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def last_name(address: str) -> str:
    """Give the last part of an address."""
    return address.rstrip("/").rpartition("/")[2] or address


def clipped(text: str, most: int = 600) -> str:
    """Shorten a text of a program, which may be a whole traceback, to one short line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else f"{plain[:most]} \N{HORIZONTAL ELLIPSIS}"


def sentence(text: str) -> str:
    """Capitalise the first letter."""
    return f"{text[:1].upper()}{text[1:]}"
