"""Which images a gallery shows: the first ones in some order, out of any number."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycap.schema import IMAGE_ID

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
