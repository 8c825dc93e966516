"""`raycap caption` from end to end: open the run, plan, caption what is pending, write the summary.

A run has one pass per model: the pending images are captioned by the model, and committed. At the
end, images that are the same bytes as others get their captions.
"""

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from raycap.answers.same import SameCaption
from raycap.captioning.addresses import SecretAddresses, secret_addresses
from raycap.captioning.cascade import Cascade
from raycap.captioning.claim import Asked, settle
from raycap.captioning.copies import Copies
from raycap.captioning.fields import open_with_fields
from raycap.captioning.ledger import (
    RetryFailed,
    Totals,
    read_ledger,
    retried_codes,
)
from raycap.captioning.parts import CAPTIONS, MANIFEST, read_captions_footer
from raycap.captioning.plan import CaptionPlan, extend_plan, record_plan
from raycap.captioning.prompts import prompt_digests, prompts_of
from raycap.captioning.rewording import apply_text, reword
from raycap.captioning.source import Listing
from raycap.captioning.status import Heartbeat, read_spent
from raycap.captioning.tar_index import KnownShards
from raycap.config import CaptionConfig
from raycap.config.loading import override
from raycap.errors import ConfigError, DatasetError, ErrorCode, RunStopped
from raycap.models.base import ModelSource
from raycap.models.sources import ENDPOINT
from raycap.progress import OnProgress, Progress, announce
from raycap.results.captioning import (
    PLAN,
    SUMMARY,
    Forecast,
    Summary,
    is_complete,
    write_summary,
)
from raycap.runs.opening import Run, check_claim, open_run
from raycap.runs.records import RUN, now, versions
from raycap.storage.base import Store
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)


def caption(  # noqa: PLR0913  the public call: all but two by keyword
    source: str | Path,
    output: str | Path,
    *,
    config: CaptionConfig | None = None,
    model: str | None = None,
    split: str | None = None,
    cascade: str | None = None,
    below: float | None = None,
    source_moved_from: str | Path | None = None,
    limit: int | None = None,
    retry_failed: RetryFailed = False,
    again: Literal["text"] | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> Summary:
    """Caption every image of a source exactly once, into an output.

    The same call continues an interrupted run; after a complete run, it captions new and changed
    images of the source.

    Args:
        source: a folder, glob, `s3://bucket/prefix`, image, list file of addresses, or caption
            dataset.
        output: a folder or `s3://bucket/prefix`.
        config: all settings; None for the defaults.
        model: shorthand for the setting `model.name`.
        split: shorthand for the setting `source.split`.
        cascade: shorthand for the setting `cascade.model`.
        below: shorthand for the setting `cascade.below`.
        source_moved_from: the former address of the source, whose images keep their names: the
            output of a run that captioned it there is continued. Images whose size, time or ETag
            has changed are captioned again.
        limit: caption only the first images of the source, in key order.
        retry_failed: retry images that failed: True for those that failed for a transient reason;
            or error codes, such as `["forbidden"]`, and `all`.
        again: `text`: apply the rules in `config.text` to the answers that a finished output
            keeps, without the model.
        on_progress: called as images are captioned.
        debug: show Ray's and the workers' own output.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        ConfigError: a setting, the source or the output is wrong.
        DatasetError: the source is a damaged caption dataset, or has no such split.
        RunConflict: the output belongs to another run, or another writer holds it.
        RunStopped: the run was interrupted, or ended early.
        StorageError: a store refuses.
        ModelError: the model cannot be found, loaded or run.
    """
    started = time.monotonic()
    named = {
        "model.name": model,
        "source.split": split,
        "cascade.model": cascade,
        "cascade.below": below,
    }
    config = override(config or CaptionConfig(), named)
    if again is not None:
        return apply_text(source, output, config, on_progress)
    retried_codes(retry_failed)  # a wrong one is refused before anything is written
    store = open_store(str(output), config.storage)  # first: finding a model may download it
    asked = settle(source, store, config, source_moved_from)
    with (
        open_run(store, asked.claim) as run,
        secret_addresses() as addresses,
        Heartbeat(run.store, replace(_NOTHING_YET, spent=read_spent(run.store))) as heartbeat,
    ):
        run.store.remove_leftovers(MANIFEST)
        run.store.remove_leftovers(CAPTIONS)
        asked.listing.tables = addresses.taken_out(asked.listing.tables)
        asked.move.record(run.store)
        reword(run.store, asked.config)  # if `--again text` was interrupted
        plan = _plan(run.store, asked, limit=limit)
        invocation = _Invocation(
            run, plan, asked, addresses, heartbeat, on_progress or (lambda _: None)
        )
        invocation.complete(retry_failed=retry_failed, debug=debug)
        summary = invocation.summary(started)
        if invocation.num_answered or not is_complete(run.store):
            run.finish(write_summary, summary)
    return summary


_NOTHING_YET = Progress(num_done=0, num_total=0, num_failed=0, images_per_s=0.0)


def forecast(
    source: str | Path,
    output: str | Path,
    *,
    config: CaptionConfig | None = None,
    source_moved_from: str | Path | None = None,
    limit: int | None = None,
    retry_failed: RetryFailed = False,
) -> Forecast:
    """Return what `caption` would do, by listing the source and the output; write nothing.

    Raises:
        RaycapError: as `caption`, which would be refused.
    """
    config = config or CaptionConfig()
    store = open_store(str(output), config.storage)
    is_moved = False
    if any(map(len, store.list())):
        # Only then: finding a model may download it.
        asked = settle(source, store, config, source_moved_from)
        check_claim(store, asked.claim)
        if asked.claim.replaces_plan(store):
            store = open_store(f"{store.uri}/{_NO_PREFIX}", config.storage)
        listing, config, is_moved = asked.listing, asked.config, asked.move.is_moved
    else:
        listing, config = open_with_fields(str(source), config, store)
    return foresee(
        store, listing, config, limit=limit, retry_failed=retry_failed, is_moved=is_moved
    )


def foresee(
    store: Store,
    listing: Listing,
    config: CaptionConfig,
    *,
    limit: int | None = None,
    retry_failed: RetryFailed = False,
    is_moved: bool = False,
) -> Forecast:
    """Return the `forecast` of an open source and an output that may hold its run.

    Args:
        store: the output.
        listing: the source.
        config: all settings.
        limit: as `caption` has it.
        retry_failed: as `caption` has it.
        is_moved: whether the source has ever moved.
    """
    plan = _extended(store, listing, config, limit=limit, dry_run=True, is_moved=is_moved)
    ledger = read_ledger(
        store,
        plan,
        retry_failed=retry_failed,
        num_threads=config.storage.list_threads,
        run=plan.run,
        prompts=prompt_digests(config),
    )
    return Forecast(
        num_images=plan.num_images,
        num_bytes=plan.num_bytes,
        num_parts=len(plan.parts),
        num_parts_done=ledger.totals.num_parts,
        num_images_done=plan.num_images - ledger.num_pending,
        num_pending=ledger.num_pending + plan.num_changed + ledger.totals.num_awaiting,
        num_copies=ledger.totals.num_awaiting_original,
        skipped=dict(listing.skipped),
        repeated=list(listing.repeated),
        is_source_empty=plan.is_source_empty,
    )


_PAID_PART_SIZE = 128

_NO_PREFIX = ".nothing"
"""Where an output holds nothing."""


class _Invocation:
    """One invocation: its passes over an output, one per model."""

    def __init__(
        self,
        run: Run,
        plan: CaptionPlan,
        asked: Asked,
        addresses: SecretAddresses,
        heartbeat: Heartbeat,
        on_progress: OnProgress,
    ) -> None:
        self._run = run
        self._store = run.store
        self._plan = plan
        self._asked = asked
        self._listing = asked.listing
        self._addresses = addresses
        self._heartbeat = heartbeat
        self._on_progress = on_progress
        self._totals = Totals()
        self._spent = heartbeat.spent
        self._stream_s = 0.0
        self._same_caption: SameCaption | None = None
        self.num_answered = 0
        """Images that this invocation captioned."""

    def complete(self, *, retry_failed: RetryFailed, debug: bool) -> None:
        """Caption everything pending, and copy the captions of equal images.

        Raises:
            RunStopped: images changed while they were captioned, once and again.
        """
        self._caption(retry_failed=retry_failed, debug=debug)
        if not self._copy_answers():
            return
        # The images that the model was asked about changed or went before it had answered.
        self._caption(retry_failed=[ErrorCode.AWAITS_ORIGINAL], debug=debug)
        if num_left := self._copy_answers():
            raise RunStopped(
                f"{num_left:,} images still await the captions of equal images, which changed "
                "while they were captioned; run the same command to continue"
            )

    def _caption(self, *, retry_failed: RetryFailed, debug: bool) -> None:
        """Caption everything pending: by the first model, then by the second if there is one."""
        config, cascade = self._asked.config, self._asked.cascade
        self._pass(config, self._asked.model, cascade, retry_failed=retry_failed, debug=debug)
        if cascade is not None:
            second = replace(cascade, is_second=True)
            self._pass(second.config, second.model, second, retry_failed=False, debug=debug)

    def _copy_answers(self) -> int:
        """Complete the rows that await the answers about equal images; return how many are left."""
        if not self._totals.num_awaiting_original:
            return 0
        config = self._asked.config
        num_threads = config.storage.list_threads
        ledger = read_ledger(
            self._store,
            self._plan,
            retry_failed=False,
            num_threads=num_threads,
            of_copies=True,
            run=self._plan.run,
        )
        announce("copying the captions of equal images")
        self._store.delete(SUMMARY)
        copies = Copies(
            store=self._store,
            lock=self._run.lock,
            awaiting=ledger.partial,
            committed=sorted(self._plan.parts),
            num_threads=num_threads,
        )
        written = copies.complete(prompts_of(config))
        self._totals = ledger.totals
        for footer in written.values():
            self._totals.add(footer)
        num_left = self._totals.num_awaiting_original + sum(
            read_captions_footer(self._store, number).num_awaiting_original
            for number in ledger.partial
            if number not in written
        )
        num_images = self._plan.num_images
        self.num_answered = self.num_answered or ledger.num_pending - num_left
        done = ledger.progress(num_images, self._totals.failed.total(), ledger.num_pending)
        done = replace(done, num_copies=self._totals.num_copies)
        self._heartbeat.note(done)
        return num_left

    def _pass(
        self,
        config: CaptionConfig,
        model: ModelSource,
        cascade: Cascade | None,
        *,
        retry_failed: RetryFailed,
        debug: bool,
    ) -> None:
        ledger = read_ledger(
            self._store,
            self._plan,
            retry_failed=retry_failed,
            num_threads=config.storage.list_threads,
            is_second=cascade is not None and cascade.is_second,
            run=self._plan.run,
            prompts=prompt_digests(config),
        )
        self._totals = ledger.totals
        num_failed = ledger.totals.failed.total()
        progress = ledger.progress(self._plan.num_images, num_failed)
        found = replace(progress, spent=self._spent, num_copies=ledger.totals.num_copies)
        self._heartbeat.note(found)
        if not ledger.num_pending:
            return
        self._store.delete(SUMMARY)
        # Imports Ray, which takes longer than it takes to see that nothing is pending.
        from raycap.captioning.passes import CaptionPass  # noqa: PLC0415

        one = CaptionPass(
            self._run,
            self._plan,
            ledger,
            config,
            model,
            self._heartbeat,
            retry_failed=retry_failed,
            spent=self._spent,
        )
        self._run.describe_stop = one.describe_stop
        try:
            one.answer(
                self._listing, self._addresses, self._on_progress, debug=debug, cascade=cascade
            )
        finally:
            # An image that went to both models counts once.
            self.num_answered = self.num_answered or one.num_answered
            self._stream_s += one.stream_s
            self._same_caption = self._same_caption or one.same_caption
            self._spent = one.spent
            # The last heartbeat keeps it for the next invocation.
            self._heartbeat.note(one.progress())

    def summary(self, started: float) -> Summary:
        """Return the summary of a run without pending images."""
        model, cascade = self._asked.model, self._asked.cascade
        totals = self._totals
        num_failed = totals.failed.total()
        num_ok = totals.num_images - num_failed
        return Summary(
            output=self._store.uri,
            source=self._listing.source,
            num_images=totals.num_images,
            num_ok=num_ok,
            num_failed=num_failed,
            failed=dict(totals.failed),
            skipped={name: count for name, count in self._listing.skipped.items() if count},
            repeated=list(self._listing.repeated),
            num_gone=self._plan.num_gone,
            is_source_empty=self._plan.is_source_empty,
            text=self._asked.text,
            mean_words=round(totals.num_words / num_ok, 2) if num_ok else 0.0,
            prompts=list(self._asked.config.prompts),
            flagged=dict(sorted(totals.flagged.items())),
            num_tokens=totals.num_tokens,
            num_prompt_tokens=totals.num_prompt_tokens,
            spent=self._spent,
            num_copies=totals.num_copies,
            num_bytes=totals.num_bytes,
            num_captioned=self.num_answered,
            wall_s=round(time.monotonic() - started, 2),
            images_per_s=round(self.num_answered / self._stream_s, 2) if self._stream_s else 0.0,
            model=model.identity(),
            cascade=cascade.sum_up(totals) if cascade else {},
            same_caption=asdict(self._same_caption) if self._same_caption else {},
            versions=versions(),
            finished_at=now(),
        )


def _plan(store: Store, asked: Asked, *, limit: int | None) -> CaptionPlan:
    """Plan a run, and record the plan."""
    plan = _extended(store, asked.listing, asked.config, limit=limit, is_moved=asked.move.is_moved)
    if plan.run and plan.run != asked.run:
        raise DatasetError(
            f"{store.address(PLAN)}: is of another run than {RUN}; restore the file, or start in "
            "a new output",
            uri=store.address(PLAN),
        )
    plan.run, plan.text = asked.run, asked.text
    record_plan(store, plan)
    return plan


def _extended(
    store: Store,
    listing: Listing,
    config: CaptionConfig,
    *,
    limit: int | None,
    dry_run: bool = False,
    is_moved: bool = False,
) -> CaptionPlan:
    """List the source, and merge it into the manifest.

    Raises:
        ConfigError: the source has no images.
    """
    announce("listing images")
    listing.known_shards = KnownShards(store, is_written=not dry_run)
    plan = extend_plan(
        store,
        listing.tables,
        part_size=_part_size(config),
        num_threads=config.storage.list_threads,
        limit=limit,
        dry_run=dry_run,
        is_moved=is_moved,
        has_context=listing.wanted is not None,
    )
    logger.info(
        "planned images=%d new=%d changed=%d parts=%d skipped=%d",
        plan.num_images,
        plan.num_new,
        plan.num_changed,
        len(plan.parts),
        listing.skipped.total(),
    )
    if not plan.num_images:
        raise no_images(listing)
    if plan.is_source_empty:
        logger.warning("no_images_found source=%s: none was taken for gone", listing.source)
    return plan


def _part_size(config: CaptionConfig) -> int:
    """Return the images per new part: fewer where the answers that a stop loses were paid."""
    engine = config.engine
    is_default = "part_size" not in engine.model_fields_set
    if is_default and config.model.backend == ENDPOINT:
        return _PAID_PART_SIZE
    return engine.part_size


def no_images(listing: Listing) -> ConfigError:
    """Return the error about a source whose listing gave no image."""
    skipped = ", ".join(f"{n} {suffix}" for suffix, n in listing.skipped.most_common(5))
    return ConfigError(
        f"{listing.source}: no images found"
        + (f" (other files: {skipped})" if skipped else "; check the address"),
        uri=listing.source,
    )
