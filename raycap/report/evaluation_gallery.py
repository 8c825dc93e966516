"""The gallery of an evaluation: images with each system's caption, the references and scores."""

from collections.abc import Iterator, Sequence
from typing import Any

from raycap.config import ReportConfig
from raycap.evaluation.record import Evaluation
from raycap.report.blocks import Fact
from raycap.report.dataset_pictures import reference_pictures
from raycap.report.gallery import (
    BEST,
    DIFFERENT,
    FAILED,
    RANDOM,
    WORST,
    Answer,
    Example,
    Gallery,
    Order,
    Tab,
)
from raycap.report.numbers import decimal
from raycap.report.pictures import Picture
from raycap.report.score_table import METRIC_LABELS
from raycap.report.scores import RANKING, Chosen, choose, read_rows
from raycap.schema import (
    BLEU,
    CAPTION,
    CLIP_SCORE,
    ERROR_CODE,
    LOGPROB,
    METEOR,
    NUM_TOKENS,
    REF_CLIP_SCORE,
    REFERENCE_CAPTIONS,
    ROUGE_L,
    SPICE,
    STATUS,
    STATUS_MISSING,
    STATUS_OK,
    URI,
)
from raycap.storage.base import Store

Rows = dict[str, dict[str, Any]]

_SPREAD = "spread"
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
    """Choose images of an evaluation, and gather what is known of them.

    Returns:
        None where the evaluation has no scores of single images.

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
    """Give what the images can be sorted by: what at least one of them has."""
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
        _answer(row, spread, frozenset(tab for tab, ids in tabs.items() if image_id in ids))
        for row, tabs in zip(found, chosen.own, strict=True)
    ]
    references: list[str] = next((row[REFERENCE_CAPTIONS] for row in found if row), [])
    return Example(
        image_id=image_id,
        picture=picture,
        answers=tuple(answers),
        others=tuple(references),
        tabs=frozenset(tab for tab, ids in chosen.common.items() if image_id in ids),
    )


def _spread(found: Sequence[dict[str, Any] | None]) -> float | None:
    """Say how far apart the systems' scores of an image lie; None where one has no score."""
    scores = [None if row is None else row[RANKING] for row in found]
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if len(known) == len(found) > 1 else None


def _answer(row: dict[str, Any] | None, spread: float | None, tabs: frozenset[str]) -> Answer:
    if row is None or row[STATUS] == STATUS_MISSING:
        return Answer(caption=None, absence="has no row", values={_SPREAD: spread}, tabs=tabs)
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
