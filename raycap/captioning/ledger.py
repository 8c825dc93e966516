"""The ledger: which parts are committed, what they hold, and what is still to do.

Nothing is kept beside the parts themselves. A part whose captions file stands is done, and is
read again only if images of it were found changed or its transient failures are to be retried.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from raycap.captioning.parts import CAPTIONS, CaptionsFooter, list_parts, read_captions_footer
from raycap.captioning.plan import CaptionPlan
from raycap.errors import DatasetError
from raycap.schema import WORK
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Totals:
    """Sums over committed parts."""

    num_parts: int = 0
    num_images: int = 0
    num_words: int = 0
    num_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    num_awaiting: int = 0
    """Images that are still to go to the second model of a cascade."""
    num_second: int = 0
    """Images that it captioned."""
    num_second_failed: int = 0
    """Images that it could not caption."""

    def add(self, footer: CaptionsFooter) -> None:
        """Count a part in."""
        self.num_parts += 1
        self.num_images += footer.num_rows
        self.num_words += footer.num_words
        self.num_bytes += footer.num_bytes
        self.failed.update(footer.failed)
        self.num_awaiting += footer.num_awaiting
        self.num_second += footer.num_second
        self.num_second_failed += footer.num_second_failed


@dataclass(kw_only=True)
class Ledger:
    """What stands and what is to do."""

    totals: Totals = field(default_factory=Totals)
    """Over the committed parts that stay as they are."""
    missing: list[int] = field(default_factory=list)
    """Parts to answer wholly."""
    partial: list[int] = field(default_factory=list)
    """Committed parts with rows to answer again."""
    num_pending: int = 0
    """Images to answer, those of partial parts estimated by their transient failures."""

    def work(self) -> pa.Table:
        """List what is to do, as WORK rows in part order."""
        partial = set(self.partial)
        numbers = sorted([*self.missing, *self.partial])
        return pa.table([numbers, [n in partial for n in numbers]], schema=WORK)


def read_ledger(
    store: Store,
    plan: CaptionPlan,
    *,
    retry_failed: bool,
    num_threads: int,
    is_second: bool = False,
) -> Ledger:
    """Compare the committed parts with the plan, by their footers alone.

    A captions part that is damaged counts as missing: nothing of it can be read, and all of it can
    be made again.

    Args:
        store: of the output.
        plan: its manifest.
        retry_failed: answer again what failed for a passing reason.
        num_threads: footers read at a time.
        is_second: answer what awaits the second model of a cascade, after the first model's pass.
    """
    ledger = Ledger()
    committed = sorted(set(list_parts(store, CAPTIONS)) & plan.parts.keys())
    footers = ordered_map(lambda n: _read_footer(store, n), committed, num_threads)
    for number, footer in zip(committed, footers, strict=True):
        if footer is None:
            ledger.missing.append(number)
            continue
        is_stale = footer.revision != plan.parts[number].revision
        if is_second and footer.num_awaiting:
            ledger.partial.append(number)
            ledger.num_pending += footer.num_awaiting
        elif not is_second and (is_stale or (retry_failed and footer.num_transient)):
            ledger.partial.append(number)
            ledger.num_pending += footer.num_transient or 1
        else:
            ledger.totals.add(footer)
    ledger.missing += sorted(plan.parts.keys() - set(committed))
    ledger.num_pending += sum(plan.parts[number].num_rows for number in ledger.missing)
    return ledger


def _read_footer(store: Store, number: int) -> CaptionsFooter | None:
    try:
        return read_captions_footer(store, number)
    except DatasetError as error:
        logger.warning("part_captioned_again reason=%s", error)
        return None
