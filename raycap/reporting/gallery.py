"""A gallery: images with what was said of them, in tabs, to filter and to sort.

Which images a gallery shows: the first ones in some order, out of any number.
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycap.reporting.pictures import Picture
from raycap.schema import IMAGE_ID

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


DRAW = "draw"
"""A random number for each image, by which random ones are taken."""

_CHUNK_ROWS = 16_384


class First:
    """The first rows of a stream in some order, in bounded memory; ties go by image id."""

    def __init__(self, num_rows: int, column: str, order: str) -> None:
        """Set the order.

        Args:
            num_rows: how many to keep.
            column: what to sort by; rows where it is null or not finite are left out.
            order: `ascending` or `descending`.
        """
        self._num_rows = num_rows
        self._column = column
        self._keys = [(column, order), (IMAGE_ID, "ascending")]
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Look at further rows."""
        self._tables.append(table.filter(pc.is_finite(table[self._column])))
        if sum(map(len, self._tables)) > self._num_rows + _CHUNK_ROWS:
            self._tables = [self.rows()]

    def rows(self) -> pa.Table:
        """Give those that come first so far, in order."""
        return pa.concat_tables(self._tables).sort_by(self._keys).slice(0, self._num_rows)

    def ids(self) -> list[str]:
        """Give their image ids, in order."""
        ids: list[str] = self.rows()[IMAGE_ID].to_pylist() if self._tables else []
        return ids


class Draws:
    """Random numbers for the rows of a stream; the same for the same seed and stream."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def append_to(self, table: pa.Table) -> pa.Table:
        """Append DRAW to a table."""
        return table.append_column(DRAW, pa.array(self._generator.random(len(table))))


def fill_up(chosen: AbstractSet[str], drawn: Sequence[str], num_images: int) -> list[str]:
    """Take random images until so many are there with the chosen ones.

    Images that are chosen already are taken as well, and count once: without them the random
    ones would look neither as good nor as bad as the set is.

    Args:
        chosen: ids that are shown in any case.
        drawn: ids in random order.
        num_images: how many to show in all.

    Returns:
        The random ones, in their order.
    """
    shown, taken = set(chosen), []
    for image_id in drawn:
        if len(shown | {image_id}) > num_images:
            break
        shown.add(image_id)
        taken.append(image_id)
    return taken
