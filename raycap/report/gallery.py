"""A gallery: images with what was said of them, in tabs, to filter and to sort."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raycap.report.pictures import Picture

BEST, WORST, RANDOM, FAILED, DIFFERENT = "best", "worst", "random", "failed", "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """A choice of images, with the order that it opens in."""

    key: str
    label: str
    order: str = ""
    """The key of an Order; empty for the order in which they were drawn."""
    descending: bool = True
    by_system: bool = False
    """Whether each system has images of its own in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something to sort images by."""

    key: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one system said of one image."""

    caption: str | None
    absence: str = ""
    """Why there is no caption."""
    marks: tuple[tuple[str, str], ...] = ()
    """What is shown below the caption: names and values."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """What images can be sorted by: keys of Order."""
    tabs: frozenset[str] = frozenset()
    """Tabs that it is in for this system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image of a gallery."""

    image_id: str
    picture: Picture
    answers: tuple[Answer, ...] = ()
    """One a system."""
    others: tuple[str, ...] = ()
    """References, or further captions."""
    tabs: frozenset[str] = frozenset()
    """Tabs that it is in whatever the system."""

    @property
    def alt(self) -> str:
        """The picture in words: the first caption that there is."""
        captions = [answer.caption for answer in self.answers if answer.caption]
        return next(iter([*captions, *self.others]), self.image_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images to look through."""

    systems: tuple[str, ...]
    """Names of what captioned; none in a dataset."""
    tabs: tuple[Tab, ...]
    orders: tuple[Order, ...]
    others_label: str
    """What the other texts of an image are."""
    examples: tuple[Example, ...]

    def facts(self) -> list[dict[str, Any]]:
        """Tell the script of each image what to choose and to sort it by."""
        return [
            {
                "id": example.image_id,
                "tabs": sorted(example.tabs),
                "systems": [
                    {"tabs": sorted(answer.tabs), "values": _finite(answer.values)}
                    for answer in example.answers
                ],
            }
            for example in self.examples
        ]

    @property
    def num_unreadable(self) -> int:
        """Images whose picture cannot be shown."""
        return sum(not example.picture.data for example in self.examples)


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Keep what JSON can hold."""
    return {
        key: round(value, 6)
        for key, value in values.items()
        if value is not None and math.isfinite(value)
    }
