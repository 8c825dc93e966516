"""Drawing a sample from a listing while it goes by, in bounded memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa


class Reservoir:
    """Rows drawn at random out of a stream of tables; each row as likely as any other.

    Every row gets a random number, and those with the least ones stay. So the sample depends on the
    seed and the order of the rows alone, not on how they are cut into tables.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows = num_rows
        self._generator = np.random.default_rng(seed)
        self._kept: pa.Table | None = None
        self._draws = np.empty(0)

    def watch(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass tables on, and draw from them."""
        for table in tables:
            self._add(table)
            yield table

    def rows(self) -> pa.Table | None:
        """Give the sample in random order, so that its beginning is a sample as well.

        None before there was any table.
        """
        return None if self._kept is None else self._kept.take(pa.array(np.argsort(self._draws)))

    def _add(self, table: pa.Table) -> None:
        draws = self._generator.random(len(table))
        if len(self._draws) == self._num_rows:
            # Of a long stream nearly all rows are out at once.
            is_in = draws < self._draws.max()
            table, draws = table.filter(pa.array(is_in)), draws[is_in]
        kept = [table] if self._kept is None else [self._kept, table]
        both = np.concatenate([self._draws, draws])
        least = np.argsort(both)[: self._num_rows]
        # Taken, which copies: a slice would keep the whole table in memory.
        self._kept = pa.concat_tables(kept).take(pa.array(least)).combine_chunks()
        self._draws = both[least]
