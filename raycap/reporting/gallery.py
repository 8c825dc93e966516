"""Gallery of images with their captions, in tabs, with filters and sorting.

Its images are the first in some order, chosen from a stream of any length.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
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
    """A selection of images, with its initial order."""

    key: str
    label: str
    order: str = ""
    """Key of an Order; empty for the order in which images were drawn."""
    descending: bool = True
    by_system: bool = False
    """Whether each system has its own images in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A value by which images can be sorted."""

    key: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The caption of one image by one system."""

    caption: str | None
    absence: str = ""
    """Why there is no caption."""
    marks: tuple[tuple[str, str], ...] = ()
    """Names and values shown below the caption."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Values to sort by, under the keys of Order."""
    tabs: frozenset[str] = frozenset()
    """Tabs that show the image for this system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image of a gallery."""

    image_id: str
    picture: Picture
    answers: tuple[Answer, ...] = ()
    """One per system."""
    others: tuple[str, ...] = ()
    """References, or further captions."""
    tabs: frozenset[str] = frozenset()
    """Tabs that show the image for all systems."""

    @property
    def alt(self) -> str:
        """Alternative text of the picture: the first caption, or the image id."""
        captions = [answer.caption for answer in self.answers if answer.caption]
        return next(iter([*captions, *self.others]), self.image_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images with their captions."""

    systems: tuple[str, ...]
    """Names of the captioning systems; empty if there is no choice of systems."""
    systems_label: str = "System"
    tabs: tuple[Tab, ...]
    orders: tuple[Order, ...]
    others_label: str
    """Heading of the other texts of an image."""
    examples: tuple[Example, ...]

    def facts(self) -> list[dict[str, Any]]:
        """Return what the script of the page needs to filter and sort the images."""
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
        """Number of images whose picture cannot be shown."""
        return sum(not example.picture.data for example in self.examples)


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Keep the values that JSON can represent."""
    return {
        key: round(value, 6)
        for key, value in values.items()
        if value is not None and math.isfinite(value)
    }


DRAW = "draw"
"""Column with a random number per image; random images are the first in its order."""

_CHUNK_ROWS = 16_384


class First:
    """First rows of a stream in some order, in bounded memory. Ties are ordered by image id."""

    def __init__(self, num_rows: int, column: str, order: str) -> None:
        """Define the order.

        Args:
            num_rows: number of rows to keep.
            column: sort key; rows in which it is null or not finite are left out.
            order: `ascending` or `descending`.
        """
        self._num_rows = num_rows
        self._column = column
        self._keys = [(column, order), (IMAGE_ID, "ascending")]
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Add rows of the stream."""
        self._tables.append(table.filter(pc.is_finite(table[self._column])))
        if sum(map(len, self._tables)) > self._num_rows + _CHUNK_ROWS:
            self._tables = [self.rows()]

    def rows(self) -> pa.Table:
        """Return the first rows so far, in order."""
        return pa.concat_tables(self._tables).sort_by(self._keys).slice(0, self._num_rows)

    def ids(self) -> list[str]:
        """Return their image ids, in order."""
        ids: list[str] = self.rows()[IMAGE_ID].to_pylist() if self._tables else []
        return ids


class Draws:
    """Random numbers for the rows of a stream, determined by the seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def append_to(self, table: pa.Table) -> pa.Table:
        """Append DRAW to a table."""
        return table.append_column(DRAW, pa.array(self._generator.random(len(table))))


def tabs_of(image_id: str, tabs: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the keys of the tabs that show an image."""
    return frozenset(tab for tab, ids in tabs.items() if image_id in ids)


def random_first(random: Sequence[str], shown: Iterable[frozenset[str]]) -> list[str]:
    """Return the ids of all images of a gallery: random ones as drawn, then the others sorted."""
    return [*random, *sorted(frozenset().union(*shown) - frozenset(random))]


def fill_up(chosen: AbstractSet[str], drawn: Sequence[str], num_images: int) -> list[str]:
    """Take random images until there are `num_images` together with the chosen ones.

    Images that are already chosen are taken as well and count once: without them, the random
    images would not be representative.

    Args:
        chosen: ids that are shown in any case.
        drawn: ids in random order.
        num_images: number of images to show in all.

    Returns:
        The random images, in their order.
    """
    shown, taken = set(chosen), []
    for image_id in drawn:
        if len(shown | {image_id}) > num_images:
            break
        shown.add(image_id)
        taken.append(image_id)
    return taken
