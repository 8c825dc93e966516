"""Gallery of an evaluation: images with the captions of all systems, references and scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap.config import ReportConfig
from raycap.errors import DatasetError
from raycap.reporting.blocks import Fact
from raycap.reporting.gallery import (
    BEST,
    DIFFERENT,
    DRAW,
    FAILED,
    RANDOM,
    WORST,
    Answer,
    Draws,
    Example,
    First,
    Gallery,
    Order,
    Tab,
    fill_up,
    random_first,
    tabs_of,
)
from raycap.reporting.numbers import decimal
from raycap.reporting.pictures import Picture, reference_pictures
from raycap.results.evaluation import Evaluation, System
from raycap.results.labels import METRIC_LABELS
from raycap.schema import (
    BLEU,
    CAPTION,
    CIDER_D,
    CLIP_SCORE,
    ERROR_CODE,
    IMAGE_ID,
    LOGPROB,
    METEOR,
    NUM_TOKENS,
    REF_CLIP_SCORE,
    REFERENCE_CAPTIONS,
    ROUGE_L,
    SCORES,
    SPICE,
    STATUS,
    STATUS_MISSING,
    STATUS_OK,
    URI,
)
from raycap.storage.base import Store

RANKING = CIDER_D
"""The score that ranks images as best and worst."""

_SPREAD = "spread"
"""Difference between the highest and the lowest score of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Ids of the images of a gallery."""

    random: list[str]
    """In the order in which they were drawn."""
    common: dict[str, frozenset[str]]
    """By tab: images that it shows for all systems."""
    own: list[dict[str, frozenset[str]]]
    """For each system, by tab: images that it shows for this system."""

    def ids(self) -> list[str]:
        """Return all of them, random ones first."""
        shown = (ids for tabs in (self.common, *self.own) for ids in tabs.values())
        return random_first(self.random, shown)


def choose(store: Store, systems: Sequence[System], num_images: int, seed: int) -> Chosen:
    """Choose a quarter of best and worst images, of different and of failed ones, others randomly.

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
    """Read the scores and captions of some images, by their ids.

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
            f"{store.address(system.scores)}: is damaged or holds no scores; evaluate again",
            uri=store.address(system.scores),
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
    """Choose images without a caption at random, in turn from each system."""
    draws = Draws(seed)
    failed = [table.filter(pc.not_equal(table[STATUS], STATUS_OK)) for table in tables]
    lists = [_first(draws.append_to(table), num_images, DRAW, "ascending") for table in failed]
    in_turn = (image_id for ids in zip_longest(*lists) for image_id in ids if image_id is not None)
    return frozenset(islice(dict.fromkeys(in_turn), num_images))


def _different(tables: Sequence[pa.Table], num_images: int) -> frozenset[str]:
    """Choose the images on which the systems' scores differ most."""
    ids = tables[0][IMAGE_ID]
    if len(tables) < 2 or any(not table[IMAGE_ID].equals(ids) for table in tables):
        return frozenset()
    scores = np.array([table[RANKING].to_numpy() for table in tables], dtype=np.float64)
    spread = scores.max(axis=0) - scores.min(axis=0)  # NaN if one has no score
    table = pa.table({IMAGE_ID: ids, _SPREAD: spread})
    return frozenset(_first(table, num_images, _SPREAD, "descending"))


Rows = dict[str, dict[str, Any]]

_SHOWN = (RANKING, ROUGE_L, BLEU[-1], METEOR, SPICE, CLIP_SCORE, REF_CLIP_SCORE)
_TABS = (
    Tab(key=RANDOM, label="Random"),
    Tab(key=BEST, label="Best", order=RANKING, by_system=True),
    Tab(key=WORST, label="Worst", order=RANKING, descending=False, by_system=True),
    Tab(key=DIFFERENT, label="Most different", order=_SPREAD),
    Tab(key=FAILED, label="Failed"),
)


def evaluation_gallery(
    store: Store, evaluation: Evaluation, config: ReportConfig
) -> Gallery | None:
    """Choose images of an evaluation, and read their captions and scores.

    Returns:
        None if the evaluation has no scores per image.

    Raises:
        DatasetError: its scores are damaged.
        StorageError: the store refuses.
    """
    systems = evaluation.systems
    if not systems or not all(system.scores for system in systems):
        return None
    chosen = choose(store, systems, config.num_examples, config.seed)
    ids = chosen.ids()
    rows = [read_rows(store, system, ids) for system in systems]
    wanted = [(image_id, _uri(rows, image_id)) for image_id in ids]
    pictures = reference_pictures(evaluation.references, wanted, config)
    examples = [
        _example(image_id, rows, picture, chosen)
        for image_id, picture in zip(ids, pictures, strict=True)
    ]
    return Gallery(
        systems=tuple(system.name for system in systems),
        tabs=tuple(tab for tab in _TABS if len(systems) > 1 or tab.key != DIFFERENT),
        orders=_orders(rows),
        others_label="People wrote",
        examples=tuple(examples),
    )


def _orders(rows: Sequence[Rows]) -> tuple[Order, ...]:
    """Return the values by which images can be sorted: those that at least one image has."""
    keys = {key for rows_of in rows for row in rows_of.values() for key in _scored(row)}
    labels = {key: METRIC_LABELS[key] for key in _SHOWN}
    labels |= {NUM_TOKENS: "Length", LOGPROB: "Log-probability"}
    orders = [Order(key=key, label=label) for key, label in labels.items() if key in keys]
    if len(rows) > 1:
        label = f"Difference of {METRIC_LABELS[RANKING]}"
        orders.append(Order(key=_SPREAD, label=label))
    return tuple(orders)


def _uri(rows: Sequence[Rows], image_id: str) -> str | None:
    uris = (rows_of[image_id][URI] for rows_of in rows if image_id in rows_of)
    return next((uri for uri in uris if uri is not None), None)


def _scored(row: dict[str, Any]) -> dict[str, float]:
    keys = (*_SHOWN, NUM_TOKENS, LOGPROB)
    return {key: float(row[key]) for key in keys if row[key] is not None}


def _example(image_id: str, rows: Sequence[Rows], picture: Picture, chosen: Chosen) -> Example:
    found = [rows_of.get(image_id) for rows_of in rows]
    spread = _spread(found)
    answers = [
        _answer(row, spread, tabs_of(image_id, tabs))
        for row, tabs in zip(found, chosen.own, strict=True)
    ]
    references: list[str] = next((row[REFERENCE_CAPTIONS] for row in found if row), [])
    return Example(
        image_id=image_id,
        picture=picture,
        answers=tuple(answers),
        others=tuple(references),
        tabs=tabs_of(image_id, chosen.common),
    )


def _spread(found: Sequence[dict[str, Any] | None]) -> float | None:
    """Return the range of the systems' scores of an image; None if one has no score."""
    scores = [None if row is None else row[RANKING] for row in found]
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if len(known) == len(found) > 1 else None


def _answer(row: dict[str, Any] | None, spread: float | None, tabs: frozenset[str]) -> Answer:
    if row is None or row[STATUS] == STATUS_MISSING:
        return Answer(
            caption=None,
            absence="has no row",
            values={_SPREAD: spread},
            tabs=tabs,
        )
    is_ok = row[STATUS] == STATUS_OK
    values = _scored(row)
    return Answer(
        caption=row[CAPTION] if is_ok else None,
        absence="" if is_ok else f"failed: {row[ERROR_CODE] or 'no code'}",
        marks=tuple(_marks(values)),
        values={**values, _SPREAD: spread},
        tabs=tabs,
    )


def _marks(values: dict[str, float]) -> Iterator[Fact]:
    for key in (*_SHOWN, LOGPROB):
        if key in values:
            yield METRIC_LABELS.get(key, "logprob"), decimal(values[key], 2)
    if NUM_TOKENS in values:
        yield "tokens", f"{values[NUM_TOKENS]:.0f}"
