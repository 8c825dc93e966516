"""The ledger: the committed parts, their totals, and the remaining work.

There is no record other than the parts themselves. A part whose captions file exists is done; it is
captioned again only if images changed or its transient failures are to be retried.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raycap.captioning.parts import CAPTIONS, CaptionsFooter, ManifestFooter, read_captions_footer
from raycap.captioning.plan import CaptionPlan
from raycap.errors import TRANSIENT_CODES, ConfigError, DatasetError, ErrorCode
from raycap.progress import Progress
from raycap.runs.records import RUN
from raycap.schema import WORK
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts, part_key

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
    """Images that await the second model of a cascade."""
    num_second: int = 0
    """Images captioned by the second model."""
    num_second_failed: int = 0
    """Images that the second model failed on."""
    flagged: Counter[str] = field(default_factory=Counter)
    """Kept answers by the code of their flag."""
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_copies: int = 0
    """Images with the captions of others that are the same bytes."""
    num_awaiting_original: int = 0
    """Those of them that still await these."""

    def add(self, footer: CaptionsFooter) -> None:
        """Add a part."""
        self.num_parts += 1
        self.num_images += footer.num_rows
        self.num_words += footer.num_words
        self.num_bytes += footer.num_bytes
        self.failed.update(footer.failed)
        self.failed.pop(ErrorCode.AWAITS_ORIGINAL, None)
        self.num_copies += footer.num_copies
        self.num_awaiting_original += footer.num_awaiting_original
        self.num_awaiting += footer.num_awaiting
        self.num_second += footer.num_second
        self.num_second_failed += footer.num_second_failed
        self.flagged.update(footer.flagged)
        self.num_tokens += footer.num_tokens
        self.num_prompt_tokens += footer.num_prompt_tokens


@dataclass(kw_only=True)
class Ledger:
    """Committed parts and remaining work."""

    totals: Totals = field(default_factory=Totals)
    """Over the committed parts that need no further work."""
    missing: list[int] = field(default_factory=list)
    """Parts to caption completely."""
    partial: list[int] = field(default_factory=list)
    """Committed parts with rows to caption again."""
    num_reworded: int = 0
    """Images of committed parts that follow other rules for the text than the run."""
    num_pending: int = 0
    """Images to caption; for partial parts estimated by their failures to retry."""

    def add(self, number: int, footer: CaptionsFooter, num_again: int) -> None:
        """Add a committed part, `num_again` rows of which will be captioned again."""
        if not num_again:
            self.totals.add(footer)
            return
        self.partial.append(number)
        self.num_pending += num_again

    def progress(
        self, num_images: int, num_failed: int, num_answered: int = 0, elapsed_s: float = 0.0
    ) -> Progress:
        """Return how far a run is.

        Args:
            num_images: images of the plan.
            num_failed: failed rows, those not committed yet included.
            num_answered: images captioned since the ledger was read.
            elapsed_s: seconds that they took.
        """
        return Progress(
            num_done=min(num_images, num_images - self.num_pending + num_answered),
            num_total=num_images,
            num_failed=num_failed,
            images_per_s=num_answered / elapsed_s if elapsed_s else 0.0,
            flagged=dict(sorted(self.totals.flagged.items())),
        )

    def work(self) -> pa.Table:
        """Return the remaining work as WORK rows in part order."""
        partial = set(self.partial)
        numbers = sorted([*self.missing, *self.partial])
        return pa.table([numbers, [n in partial for n in numbers]], schema=WORK)


RetryFailed = bool | str | Collection[str]
"""Failures to retry: True for those of transient codes, codes, or `a,b` as on the command line."""

_GROUPS = {
    "transient": TRANSIENT_CODES,
    "all": frozenset(ErrorCode),
}


def retried_codes(retry_failed: RetryFailed) -> frozenset[str]:
    """Return the error codes of rows to caption again.

    Raises:
        ConfigError: there is no such code.
    """
    if isinstance(retry_failed, bool):
        return TRANSIENT_CODES if retry_failed else frozenset()
    names = retry_failed.split(",") if isinstance(retry_failed, str) else retry_failed
    found: set[str] = set()
    for name in (name.strip() for name in names):
        if name not in _GROUPS.keys() | _GROUPS["all"]:
            raise ConfigError(
                f"retry_failed={name!r} is not one of: {', '.join([*_GROUPS, *ErrorCode])}",
                setting="retry_failed",
            )
        found |= _GROUPS.get(name, {name})
    return frozenset(found)


def read_ledger(  # noqa: PLR0913  independent choices, by keyword
    store: Store,
    plan: CaptionPlan,
    *,
    retry_failed: RetryFailed,
    num_threads: int,
    is_second: bool = False,
    of_copies: bool = False,
    run: str = "",
    prompts: Mapping[str, str] | None = None,
    text: str | None = None,
) -> Ledger:
    """Compare the committed parts with the plan, by their footers only.

    A damaged captions part counts as missing: it cannot be read, and can be captioned again. A part
    of another run, or of other images, is neither adopted nor replaced.

    Args:
        store: Of the output.
        plan: Its manifest.
        run: Digest of the run's fingerprint; "" accepts the parts of any run.
        retry_failed: Failures to retry.
        num_threads: Footers to read at the same time.
        is_second: After the pass of the first model, caption the images that await the second
            model of a cascade.
        of_copies: After the passes of all models, only complete the rows that await the answers
            about an equal image.
        prompts: Digests of the run's named prompts; a part that lacks one is asked it.
        text: Digest of the run's rules for the text; None if it does not matter.

    Raises:
        DatasetError: a captions part belongs to another run or manifest.
    """
    ledger = Ledger()
    codes = retried_codes(retry_failed)
    committed = sorted(set(list_parts(store, CAPTIONS)) & plan.parts.keys())
    footers = ordered_map(lambda n: _read_footer(store, n), committed, num_threads)
    for number, footer in zip(committed, footers, strict=True):
        if footer is None:
            ledger.missing.append(number)
            continue
        part = plan.parts[number]
        problem = foreign_reason(footer, part, run)
        if problem is not None:
            raise foreign_part(store, number, problem)
        ledger.num_reworded += footer.num_rows if text not in (None, footer.text) else 0
        if of_copies:
            num_again = footer.num_awaiting_original
        elif is_second:
            num_again = footer.num_awaiting
        else:
            num_again = _count_again(footer, part, codes)
        if not (prompts or {}).items() <= footer.prompts.items():
            num_again = footer.num_rows
        ledger.add(number, footer, num_again)
    ledger.missing += sorted(plan.parts.keys() - set(committed))
    ledger.num_pending += sum(plan.parts[number].num_rows for number in ledger.missing)
    return ledger


def _count_again(footer: CaptionsFooter, part: ManifestFooter, codes: frozenset[str]) -> int:
    """Estimate how many rows of a committed part to caption again; 0 if none."""
    num_retried = sum(count for code, count in footer.failed.items() if code in codes)
    is_stale = footer.revision != part.revision
    if not (is_stale or num_retried):
        return 0
    # Transient failures are retried whenever a part is rewritten.
    return max(num_retried, footer.num_transient) or 1


def foreign_reason(footer: CaptionsFooter, part: ManifestFooter, run: str) -> str | None:
    """Say why a captions part does not belong to a manifest part; None if it does.

    Parts of older versions name neither their run nor their ids: the number of rows must do.
    """
    if run and footer.run and footer.run != run:
        return "is of another run, with another source, model or settings"
    if footer.num_rows != part.num_rows:
        return f"has {footer.num_rows:,} rows for the {part.num_rows:,} images of its manifest part"
    if footer.ids and part.ids and footer.ids != part.ids:
        return "has other images than its manifest part"
    return None


def foreign_part(store: Store, number: int, reason: str) -> DatasetError:
    """Return the error about a captions part that does not belong to the output."""
    address = store.address(part_key(CAPTIONS, number))
    return DatasetError(
        f"{address}: {reason}; move the file away and run the same `raycap caption` command again, "
        "or give another output",
        uri=address,
    )


def check_adoptable(store: Store, run: str, num_threads: int) -> None:
    """Make sure that captions without a `run.json` are those of this run.

    Raises:
        DatasetError: one is of another run, or does not say of which.
    """
    numbers = sorted(list_parts(store, CAPTIONS))
    footers = ordered_map(lambda n: _read_footer(store, n), numbers, num_threads)
    for number, footer in zip(numbers, footers, strict=True):
        if footer is None or footer.run != run:
            is_other = footer is not None and footer.run
            raise foreign_part(
                store,
                number,
                f"is of {'another' if is_other else 'an unknown'} run, as the output has no "
                f"{RUN} (restore that if you have it)",
            )


def _read_footer(store: Store, number: int) -> CaptionsFooter | None:
    try:
        return read_captions_footer(store, number)
    except DatasetError as error:
        logger.warning("part_captioned_again reason=%s", error)
        return None
