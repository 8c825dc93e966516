"""One model's pass over the pending images of a run: on Ray, from the stream to committed parts."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from raycap.answers.same import SameCaption
from raycap.captioning import telemetry
from raycap.captioning.addresses import SecretAddresses
from raycap.captioning.cascade import Cascade
from raycap.captioning.context import Context
from raycap.captioning.digests import DigestIndex, write_index
from raycap.captioning.endpoint import open_account
from raycap.captioning.ledger import Ledger, RetryFailed, Totals, read_ledger, retried_codes
from raycap.captioning.loading import RunSpec
from raycap.captioning.parts import CaptionsFooter, read_captions_footer
from raycap.captioning.plan import CaptionPlan
from raycap.captioning.prompts import prompt_digests, prompts_of
from raycap.captioning.resources import (
    count_lanes,
    count_workers,
    fit_batches,
    fit_blocks,
    fit_resources,
    threads_per_actor,
)
from raycap.captioning.same_captions import describe
from raycap.captioning.source import Listing
from raycap.captioning.spending import Spending
from raycap.captioning.status import Heartbeat
from raycap.captioning.stream import Resources
from raycap.captioning.streams import (
    SharedStreams,
    Stream,
    StreamReport,
    StreamSpec,
    count_streams,
)
from raycap.cluster.start import ray_cluster, start_here
from raycap.config import CaptionConfig
from raycap.models.base import ModelSource
from raycap.models.kinds import find_kind
from raycap.models.sources import ENDPOINT
from raycap.progress import OnProgress, Progress, Spent, announce
from raycap.runs.opening import Run

logger = logging.getLogger(__name__)


class CaptionPass:
    """One model's pass: the rows of earlier invocations, and those it adds."""

    def __init__(  # noqa: PLR0913  all that a pass works on
        self,
        run: Run,
        plan: CaptionPlan,
        ledger: Ledger,
        config: CaptionConfig,
        model: ModelSource,
        heartbeat: Heartbeat,
        *,
        retry_failed: RetryFailed = False,
        spent: Spent | None = None,
    ) -> None:
        self._store = run.store
        self._before = spent
        self._spending = _spending(config, spent)
        self._account: Any = None
        self._retry_failed = retry_failed
        self._lock = run.lock
        self._heartbeat = heartbeat
        self._plan = plan
        self._num_images = plan.num_images  # once: it is a sum over all parts
        self._ledger = ledger
        self._config = config
        self._model = model
        self.totals: Totals = ledger.totals
        self.num_answered = 0
        self._num_failed = self.totals.failed.total()
        self._num_copies = self.totals.num_copies
        self._cascade: Cascade | None = None
        self.stream_s = 0.0
        self.same_caption: SameCaption | None = None
        """The first caption for which the model seemed to ignore its images."""

    def answer(
        self,
        listing: Listing,
        addresses: SecretAddresses,
        on_progress: OnProgress,
        *,
        debug: bool,
        cascade: Cascade | None,
    ) -> None:
        """Caption everything pending, on Ray.

        Args:
            listing: the source.
            addresses: the addresses of the run that contain secrets.
            on_progress: called as images are captioned.
            debug: show Ray's and the workers' own output.
            cascade: the run's cascade; it says whether this is the second model's pass.

        Raises:
            ConfigError: the requested actors do not fit the cluster.
            RaycapError: as a worker raised it.
        """
        self._cascade = cascade
        if self._spending is not None:
            self._spending.check()
        with self._known_digests() as digests, ray_cluster(debug=debug) as is_fixed:
            self._account = open_account(self._config)
            uses_gpus = find_kind(self._model.kind).uses_gpus
            resources = fit_resources(self._config.engine, uses_gpus=uses_gpus, is_fixed=is_fixed)
            spec = self._spec(listing, addresses, resources, debug=debug)
            if digests is not None:
                spec = replace(spec, digests=start_here(DigestIndex, digests, restarts=True))
            described = StreamSpec(
                spec=spec,
                resources=resources,
                versions=self._plan.versions,
                cascade=cascade,
                has_captions=self._is_second or self._num_failed < self.totals.num_images,
            )
            self._stream(described, on_progress)

    @contextmanager
    def _known_digests(self) -> Iterator[Path | None]:
        """Keep an index of digests on disk within the block; None if every image is captioned."""
        if self._config.engine.deduplicate == "off" or self._is_second:
            yield None
            return
        announce("reading the digests of captions")
        with tempfile.TemporaryDirectory(prefix="raycap-digests-") as folder:
            file = Path(folder) / "digests"
            num_digests = write_index(
                file,
                self._store,
                self._plan,
                sorted(self._plan.parts.keys() - set(self._ledger.missing)),
                prompts_of(self._config),
                retried_codes(self._retry_failed),
                self._config.storage.list_threads,
            )
            logger.info("digests_known answers=%d", num_digests)
            yield file

    @property
    def _is_second(self) -> bool:
        return self._cascade is not None and self._cascade.is_second

    def _spec(
        self, listing: Listing, addresses: SecretAddresses, resources: Resources, *, debug: bool
    ) -> RunSpec:
        config, kind = self._config, self._model.kind
        batches = fit_batches(config, kind, resources)
        # On this machine, where the addresses are kept.
        served = start_here(SecretAddresses, addresses.folder) if addresses.has_any else None
        return RunSpec(
            output=self._store.uri,
            dataset=listing.source if listing.is_dataset else None,
            addresses=served,
            config=config,
            model=self._model,
            batches=batches,
            batches_per_block=fit_blocks(
                batches,
                self._model.target.num_bytes,
                self._ledger.num_pending,
                resources.actors.max,
            ),
            num_lanes=count_lanes(config, kind, resources),
            torch_threads=threads_per_actor(config.engine, resources.actors.max),
            debug=debug,
            below=self._cascade.below if self._cascade and self._is_second else None,
            root=listing.root,
            retried=retried_codes(self._retry_failed),
            prompts=prompts_of(config),
            context=Context.of(config),
            spent=self._before,
            account=self._account,
        )

    def _stream(self, described: StreamSpec, on_progress: OnProgress) -> None:
        work, actors = self._ledger.work(), described.resources.actors
        num_captioners = count_workers(described.resources, len(work)).captioners
        num_streams = min(len(work), count_streams(self._config.engine, num_captioners))
        logger.info(
            "stream_started run=%s images=%d parts=%d streams=%d actors=%d..%d batch=%d..%d "
            "model=%s",
            telemetry.begin_run(self._store.uri),
            self._ledger.num_pending,
            len(work),
            num_streams,
            actors.min,
            actors.max,
            described.spec.batches.least,
            described.spec.batches.most,
            self._model.name,
        )
        started = time.monotonic()
        self._heartbeat.note(self.progress())

        def note(report: StreamReport) -> None:
            self._add(report)
            self._lock.check()
            progress = self.progress(time.monotonic() - started)
            self._heartbeat.note(progress)
            if report.num_answered:
                on_progress(progress)
            if self._spending is not None:
                self._spending.check()

        try:
            if num_streams > 1:
                streams = SharedStreams(work, described, num_streams, self._lock.token)
                streams.run(note, self._committed)
            else:
                self._stream_here(described, work, note)
        finally:
            self.stream_s = time.monotonic() - started
            self._heartbeat.note(self.progress(self.stream_s))  # the last commits are in now

    def _stream_here(
        self, described: StreamSpec, work: pa.Table, note: Callable[[StreamReport], None]
    ) -> None:
        stream = Stream(self._store, self._lock, described)
        try:
            for _ in stream.run(work):
                note(stream.report())
        finally:
            self._add(stream.report())

    def _committed(self, numbers: set[int]) -> list[tuple[int, CaptionsFooter]]:
        """Return which of these parts have been committed in this pass, with their footers."""
        parts = {number: self._plan.parts[number] for number in numbers}
        ledger = read_ledger(
            self._store,
            CaptionPlan(parts=parts),
            retry_failed=self._retry_failed,
            num_threads=self._config.storage.list_threads,
            is_second=self._is_second,
            run=self._plan.run,
            prompts=prompt_digests(self._config),
        )
        done = numbers - {*ledger.missing, *ledger.partial}
        return [(number, read_captions_footer(self._store, number)) for number in sorted(done)]

    def _add(self, report: StreamReport) -> None:
        self.num_answered += report.num_answered
        self._num_failed += report.num_failed
        if self._spending is not None:
            self._spending.correct(*ray.get(self._account.pay.remote(0, 0)))
        self._num_copies += report.num_copies
        for _, footer in report.committed:
            self.totals.add(footer)
        if report.same_caption is not None and self.same_caption is None:
            self.same_caption = report.same_caption
            logger.warning(
                "same_caption: %s, as if the model ignored its images; check model, cache and "
                "prompt",
                describe(report.same_caption),
            )
        telemetry.note_remaining(self._ledger.num_pending - self.num_answered)

    def describe_stop(self) -> str:
        """Return how far a stopped pass came, and how to continue it."""
        committed, total = self.totals.num_images, self._num_images
        return (
            f"stopped with {committed:,} of {total:,} images committed in {self._store.uri}; run "
            "the same command to continue"
        )

    def progress(self, elapsed_s: float = 0.0) -> Progress:
        """Return how far the pass is."""
        found = self._ledger.progress(
            self._num_images, self._num_failed, self.num_answered, elapsed_s
        )
        return replace(found, spent=self.spent, num_copies=self._num_copies)

    @property
    def spent(self) -> Spent | None:
        """What the run has spent at endpoints, earlier invocations included."""
        return self._before if self._spending is None else self._spending.spent


def _spending(config: CaptionConfig, before: Spent | None) -> Spending | None:
    """Return the counter of a pass; None if its model is not at endpoints."""
    if config.model.backend != ENDPOINT:
        return None
    return Spending(config.endpoint, before or Spent())
