"""The images of LOADED rows as arrays."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from raycap import schema


class LoadedImages:
    """The images of LOADED rows, without failed ones; their pixels are copied only if necessary."""

    def __init__(self, batch: pa.Table) -> None:
        column = batch[schema.PIXELS]
        loaded = column.is_valid().to_pylist()
        self.rows = [row for row, is_loaded in enumerate(loaded) if is_loaded]
        """The row of each image."""
        sides = batch.select([schema.INPUT_HEIGHT_PX, schema.INPUT_WIDTH_PX])
        sides = sides.filter(column.is_valid())
        self.shapes: list[tuple[int, int]] = list(
            zip(*(side.to_pylist() for side in sides.columns), strict=True)
        )
        """Height and width of each image."""
        joined = column.drop_null().combine_chunks()
        joined = joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined
        self._offsets = np.zeros(1, np.int64)
        self._values = np.empty(0, np.uint8)
        if self.rows:
            offsets = np.frombuffer(joined.buffers()[1], np.int64)
            self._offsets = offsets[joined.offset : joined.offset + len(self.rows) + 1]
            self._values = np.frombuffer(joined.buffers()[2], np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, places: Sequence[int]) -> UInt8[np.ndarray, "b h w 3"]:
        """Return images of one shape, by their places among all images."""
        first, last = places[0], places[-1]
        if list(places) == list(range(first, last + 1)):
            values = self._values[self._offsets[first] : self._offsets[last + 1]]
            return values.reshape(len(places), *self.shapes[first], 3)
        return np.stack([self.pixels([place])[0] for place in places])
