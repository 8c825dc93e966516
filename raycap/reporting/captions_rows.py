"""One pass over the rows of a caption output: what they come to, and which ones to show."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.output import FinishedOutput
from raycap.reporting.blocks import Fact
from raycap.reporting.gallery import BEST, DRAW, FAILED, RANDOM, WORST, Draws, First, fill_up
from raycap.schema import (
    ERROR_CODE,
    ERROR_MESSAGE,
    IMAGE_ID,
    LOGPROB,
    NUM_WORDS,
    PART,
    STATUS,
    STATUS_OK,
)

_COLUMNS = [IMAGE_ID, STATUS, ERROR_CODE, ERROR_MESSAGE, NUM_WORDS, LOGPROB]
_KEPT = [IMAGE_ID, LOGPROB, PART, DRAW]
_MESSAGES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """The images that a gallery shows."""

    ids: list[str]
    """All of them, random ones first."""
    tabs: dict[str, frozenset[str]]
    """Which of them are in which tab."""
    parts: dict[str, int]
    """The number of the part that each stands in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the rows of an output come to."""

    num_images: int
    num_ok: int
    num_words: int
    mean_logprob: float | None
    lengths: Mapping[int, int]
    """Captions by their number of words."""
    failed: Mapping[str, int]
    """Failed rows by error code."""
    messages: Mapping[str, tuple[Fact, ...]]
    """Some images and messages for each error code."""
    chosen: Picks


@dataclass(kw_only=True)
class _Totals:
    num_images: int = 0
    num_ok: int = 0
    num_words: int = 0
    sum_logprob: float = 0.0
    num_logprob: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    messages: dict[str, list[Fact]] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Count rows in."""
        is_ok = pc.equal(table[STATUS], STATUS_OK)
        ok, failed = table.filter(is_ok), table.filter(pc.invert(is_ok))
        logprobs = ok[LOGPROB].filter(pc.is_finite(ok[LOGPROB]))
        self.num_images += len(table)
        self.num_ok += len(ok)
        self.num_words += pc.sum(ok[NUM_WORDS]).as_py() or 0
        self.sum_logprob += pc.sum(logprobs).as_py() or 0.0
        self.num_logprob += len(logprobs)
        for count in pc.value_counts(ok[NUM_WORDS].combine_chunks()).to_pylist():
            self.lengths[count["values"]] += count["counts"]
        for row in failed.select([IMAGE_ID, ERROR_CODE, ERROR_MESSAGE]).to_pylist():
            code = row[ERROR_CODE] or "no code"
            self.failed[code] += 1
            shown = self.messages.setdefault(code, [])
            if len(shown) < _MESSAGES_SHOWN:
                shown.append((row[IMAGE_ID], row[ERROR_MESSAGE] or "no message"))


def look_over(output: FinishedOutput, num_images: int, seed: int) -> Overview:
    """Read all rows once, in bounded memory.

    Args:
        output: a finished run's.
        num_images: how many to choose for the gallery: a quarter each of the likeliest, the least
            likely and the failed, the rest at random.
        seed: fixes which are random.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the store refuses.
    """
    quarter, totals, draws = num_images // 4, _Totals(), Draws(seed)
    firsts = {
        RANDOM: First(num_images, DRAW, "ascending"),
        BEST: First(quarter, LOGPROB, "descending"),
        WORST: First(quarter, LOGPROB, "ascending"),
        FAILED: First(quarter, DRAW, "ascending"),
    }
    for number, page in zip(output.parts, output.pages(_COLUMNS), strict=True):
        totals.add(page)
        numbered = page.append_column(PART, pa.array([number] * len(page), pa.int64()))
        rows = draws.append_to(numbered)
        is_ok = pc.equal(rows[STATUS], STATUS_OK)
        firsts[RANDOM].add(rows.select(_KEPT))
        firsts[FAILED].add(rows.filter(pc.invert(is_ok)).select(_KEPT))
        for tab in (BEST, WORST):
            firsts[tab].add(rows.filter(is_ok).select(_KEPT))
    return Overview(
        num_images=totals.num_images,
        num_ok=totals.num_ok,
        num_words=totals.num_words,
        mean_logprob=totals.sum_logprob / totals.num_logprob if totals.num_logprob else None,
        lengths=totals.lengths,
        failed=totals.failed,
        messages={code: tuple(shown) for code, shown in totals.messages.items()},
        chosen=_pick(firsts, num_images),
    )


def _pick(firsts: dict[str, First], num_images: int) -> Picks:
    tabs = {tab: frozenset(first.ids()) for tab, first in firsts.items() if tab != RANDOM}
    shown = frozenset().union(*tabs.values())
    random = fill_up(shown, firsts[RANDOM].ids(), num_images)
    parts: dict[str, int] = {}
    for first in firsts.values():
        rows = first.rows()
        parts.update(zip(rows[IMAGE_ID].to_pylist(), rows[PART].to_pylist(), strict=True))
    return Picks(
        ids=[*random, *sorted(shown - frozenset(random))],
        tabs={**tabs, RANDOM: frozenset(random)},
        parts=parts,
    )
