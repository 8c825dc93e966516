"""One pass of a run: what is pending, answered by one model and committed."""

import logging
import time
from typing import Any

import pyarrow.compute as pc

from raycap import schema
from raycap.bulk import telemetry
from raycap.bulk.addresses import SecretAddresses
from raycap.bulk.cascade import Cascade
from raycap.bulk.commit import Committer
from raycap.bulk.heartbeat import Heartbeat
from raycap.bulk.ledger import Ledger, Totals
from raycap.bulk.loading import RunSpec
from raycap.bulk.pipeline import Resources, answered_rows
from raycap.bulk.plan import Plan
from raycap.bulk.resources import count_lanes, fit_batches, fit_resources, threads_per_actor
from raycap.bulk.source import Listing
from raycap.cluster import ray_cluster
from raycap.config import CaptionConfig
from raycap.models.base import ModelSource
from raycap.status import OnProgress, Progress
from raycap.storage.base import Store, WriteLock

logger = logging.getLogger(__name__)


class CaptionPass:
    """What stood before, and what this pass has added."""

    def __init__(
        self,
        store: Store,
        lock: WriteLock,
        plan: Plan,
        ledger: Ledger,
        config: CaptionConfig,
        model: ModelSource,
    ) -> None:
        self._store = store
        self._lock = lock
        self._plan = plan
        self._num_images = plan.num_images  # once: it is a sum over all parts
        self._ledger = ledger
        self._config = config
        self._model = model
        self.totals: Totals = ledger.totals
        self.num_answered = 0
        self._num_failed = self.totals.failed.total()
        self._cascade: Cascade | None = None
        self.stream_s = 0.0

    def answer(
        self,
        listing: Listing,
        addresses: SecretAddresses,
        on_progress: OnProgress,
        *,
        debug: bool,
        cascade: Cascade | None,
    ) -> None:
        """Answer everything pending, on Ray.

        Args:
            listing: where the images are.
            addresses: the run's, as far as they hold secrets.
            on_progress: called as images are answered.
            debug: show Ray's and the workers' own output.
            cascade: of the run; in its second model's pass it says so.

        Raises:
            ConfigError: the actors that the settings ask for do not fit the cluster.
            RaycapError: as a worker raised it.
        """
        self._cascade = cascade
        is_second = cascade is not None and cascade.is_second
        with ray_cluster(debug=debug) as is_fixed:
            resources = fit_resources(
                self._config.engine, uses_gpus=self._model.kind != "stub", is_fixed=is_fixed
            )
            spec = RunSpec(
                output=self._store.uri,
                dataset=listing.source if listing.is_dataset else None,
                addresses=addresses.serve(),
                config=self._config,
                model=self._model,
                batches=fit_batches(self._config, self._model.kind, resources),
                num_lanes=count_lanes(self._config, self._model.kind, resources),
                torch_threads=threads_per_actor(self._config.engine, resources.actors.max),
                debug=debug,
                below=cascade.below if cascade and is_second else None,
            )
            self._stream(spec, resources, on_progress)

    def _stream(self, spec: RunSpec, resources: Resources, on_progress: OnProgress) -> None:
        logger.info(
            "stream_started images=%d parts=%d actors=%d..%d batch=%d..%d model=%s",
            self._ledger.num_pending,
            len(self._ledger.work()),
            resources.actors.min,
            resources.actors.max,
            spec.batches.least,
            spec.batches.most,
            spec.model.name,
        )
        started = time.monotonic()
        add = self.totals.add
        with (
            Heartbeat(self._store, self._progress(0.0)) as heartbeat,
            Committer(self._store, self._lock, self._plan, add, self._cascade) as committer,
        ):
            try:
                for table in answered_rows(self._ledger.work(), spec, resources):
                    self._count(committer.add(table))
                    progress = self._progress(time.monotonic() - started)
                    heartbeat.note(progress)
                    on_progress(progress)
                committer.finish()
            finally:
                committer.drain()
                self.stream_s = time.monotonic() - started

    def describe_stop(self) -> str:
        """Say how far a stopped pass came, and how to continue it."""
        committed, total = self.totals.num_images, self._num_images
        return (
            f"stopped with {committed:,} of {total:,} images committed in {self._store.uri}; run "
            "the same command to continue"
        )

    def _count(self, answered: Any) -> None:
        self.num_answered += len(answered)
        # Where the second model fails, the first one's caption stays.
        kept = self._cascade.kept(answered) if self._cascade else answered
        failed = pc.sum(pc.equal(kept[schema.STATUS], schema.STATUS_FAILED)).as_py() or 0
        self._num_failed += failed
        telemetry.note_answered(kept, self._ledger.num_pending - self.num_answered)

    def _progress(self, elapsed_s: float) -> Progress:
        total = self._num_images
        return Progress(
            num_done=min(total, total - self._ledger.num_pending + self.num_answered),
            num_total=total,
            num_failed=self._num_failed,
            images_per_s=self.num_answered / elapsed_s if elapsed_s else 0.0,
        )
