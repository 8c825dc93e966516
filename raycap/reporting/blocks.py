"""Building blocks of sections: facts, tiles, tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from raycap.reporting.gallery import Gallery

Fact = tuple[str, str]
"""A name and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of a page: about one output, or a comparison of several."""

    template: ClassVar[str]
    """File name of its template."""
    kind: ClassVar[str]
    """Kind of output, as shown above the title."""

    anchor: str
    """Prefix of all its ids."""
    title: str
    gallery: Gallery | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A key figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of figures."""

    columns: tuple[str, ...]
    """Column headings; the first column has the names of the rows."""
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Failed images with one error code."""

    code: str
    count: int
    share: float
    """Of all failures of the table, 0 to 1: the length of a bar."""
    examples: tuple[Fact, ...] = ()
    """Some of the images, each with its error message."""


def failure_table(
    counts: Mapping[str, int], examples: Mapping[str, tuple[Fact, ...]] | None = None
) -> tuple[Failure, ...]:
    """Sort failures by their number.

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
    """Yield nested settings one by one, with names such as `generation.num_beams`."""
    for key, value in content.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat_facts(value, name)
        elif value is not None and value != {} and value != "":
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def run_settings(
    config: Mapping[str, Any], model: Mapping[str, Any], versions: Mapping[str, str]
) -> Iterator[Fact]:
    """Yield model, settings and versions; the model only once, although settings name it too."""
    yield from flat_facts(model, "model")
    yield from (fact for fact in flat_facts(config) if not fact[0].startswith("model."))
    yield from flat_facts(versions, "version")


def last_name(address: str) -> str:
    """Return the last component of an address."""
    return address.rstrip("/").rpartition("/")[2] or address


def clipped(text: str, most: int = 600) -> str:
    """Shorten a text of a program, which may be a whole traceback, to a single line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else f"{plain[:most]} \N{HORIZONTAL ELLIPSIS}"


def sentence(text: str) -> str:
    """Capitalise the first letter."""
    return f"{text[:1].upper()}{text[1:]}"


def enumerated(texts: Sequence[str], most: int) -> str:
    """Join the first `most` texts, and count the others."""
    more = len(texts) - most
    return "; ".join([*texts[:most], *([f"and {more} more, see the table"] if more > 0 else [])])
