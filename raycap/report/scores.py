"""Per-image scores of an evaluation: which images to show, and all that is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap.errors import DatasetError
from raycap.evaluation.record import System
from raycap.report.choice import DRAW, Draws, First, fill_up
from raycap.report.gallery import BEST, DIFFERENT, FAILED, RANDOM, WORST
from raycap.schema import CIDER_D, IMAGE_ID, SCORES, STATUS, STATUS_OK
from raycap.storage.base import Store

RANKING = CIDER_D
"""What makes an image the best or the worst."""

_SPREAD = "spread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The images that a gallery shows, by their ids."""

    random: list[str]
    """In the order in which they were drawn."""
    common: dict[str, frozenset[str]]
    """By tab: those that are in it whatever the system."""
    own: list[dict[str, frozenset[str]]]
    """For each system, by tab: those that are in it for this system."""

    def ids(self) -> list[str]:
        """All of them, random ones first."""
        chosen = [ids for tabs in (self.common, *self.own) for ids in tabs.values()]
        others = frozenset().union(*chosen) - frozenset(self.random)
        return [*self.random, *sorted(others)]


def choose(store: Store, systems: Sequence[System], num_images: int, seed: int) -> Chosen:
    """Choose images to show: a quarter each of the best, worst and failed, the rest at random.

    Raises:
        DatasetError: scores are damaged.
        StorageError: the store refuses.
    """
    tables = [_read(store, system, [IMAGE_ID, STATUS, RANKING]) for system in systems]
    quarter = num_images // 4
    own = [_extremes(table, quarter // len(tables)) for table in tables]
    common = {
        FAILED: _failed(tables, seed, quarter),
        DIFFERENT: _different(tables, quarter),
    }
    drawn = _first(Draws(seed).append_to(tables[0]), num_images, DRAW, "ascending")
    shown = frozenset().union(*common.values(), *(ids for tabs in own for ids in tabs.values()))
    random = fill_up(shown, drawn, num_images)
    return Chosen(random=random, common={**common, RANDOM: frozenset(random)}, own=own)


def read_rows(store: Store, system: System, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read all that is known of some images, by their ids.

    Raises:
        DatasetError: the scores are damaged.
        StorageError: the store refuses.
    """
    wanted = pa.array(ids, pa.string())
    table = _read(store, system, SCORES.names, wanted)
    return {row[IMAGE_ID]: row for row in table.to_pylist()}


def _read(
    store: Store, system: System, columns: list[str], wanted: pa.Array | None = None
) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(store.read(system.scores)))
        schema = pa.schema([SCORES.field(name) for name in columns])
        batches = [schema.empty_table()]
        for batch in file.iter_batches(columns=columns):
            table = pa.Table.from_batches([batch]).select(columns).cast(schema)
            is_wanted = None if wanted is None else pc.is_in(table[IMAGE_ID], wanted)
            batches.append(table if is_wanted is None else table.filter(is_wanted))
        return pa.concat_tables(batches)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(
            f"{store.address(system.scores)}: is damaged or holds no scores; evaluate again"
        ) from error


def _first(table: pa.Table, num_rows: int, column: str, order: str) -> list[str]:
    first = First(num_rows, column, order)
    first.add(table)
    return first.ids()


def _extremes(table: pa.Table, num_images: int) -> dict[str, frozenset[str]]:
    captioned = table.filter(pc.equal(table[STATUS], STATUS_OK))
    return {
        BEST: frozenset(_first(captioned, num_images, RANKING, "descending")),
        WORST: frozenset(_first(captioned, num_images, RANKING, "ascending")),
    }


def _failed(tables: Sequence[pa.Table], seed: int, num_images: int) -> frozenset[str]:
    """Choose images without a caption at random, each system's in turn."""
    draws = Draws(seed)
    failed = [table.filter(pc.not_equal(table[STATUS], STATUS_OK)) for table in tables]
    lists = [_first(draws.append_to(table), num_images, DRAW, "ascending") for table in failed]
    in_turn = (image_id for ids in zip_longest(*lists) for image_id in ids if image_id is not None)
    return frozenset(islice(dict.fromkeys(in_turn), num_images))


def _different(tables: Sequence[pa.Table], num_images: int) -> frozenset[str]:
    """Choose the images on which the systems' scores lie farthest apart."""
    ids = tables[0][IMAGE_ID]
    if len(tables) < 2 or any(not table[IMAGE_ID].equals(ids) for table in tables):
        return frozenset()
    scores = np.array([table[RANKING].to_numpy() for table in tables], dtype=np.float64)
    spread = scores.max(axis=0) - scores.min(axis=0)  # not a number where one has no score
    table = pa.table({IMAGE_ID: ids, _SPREAD: spread})
    return frozenset(_first(table, num_images, _SPREAD, "descending"))
