"""`raycap caption --preflight`: predict a run by captioning a random sample of its images.

The sample is drawn from the listing as it streams by, in bounded memory. Results go to a folder of
the output that a run neither reads nor lists, so that they do not affect the run.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.claim import (
    CaptionClaim,
    caption_fingerprint,
    check_asked,
    settle_model,
)
from raycap.captioning.context import Context
from raycap.captioning.endpoint import open_account
from raycap.captioning.fields import open_with_fields
from raycap.captioning.forecast import RunAhead, count, estimate
from raycap.captioning.ledger import RetryFailed
from raycap.captioning.loading import RunSpec
from raycap.captioning.moving import find_move
from raycap.captioning.plan import limited
from raycap.captioning.prompts import prompts_of
from raycap.captioning.read_ahead import in_tar
from raycap.captioning.resources import (
    count_lanes,
    count_workers,
    fit_batches,
    fit_resources,
    threads_per_actor,
)
from raycap.captioning.run import foresee, no_images
from raycap.captioning.source import Listing, is_held
from raycap.captioning.stream import Resources, answered_rows
from raycap.cluster.start import ray_cluster
from raycap.config import ActorRange, CaptionConfig, EndpointConfig
from raycap.errors import ConfigError
from raycap.models.base import BatchRange, ModelSource
from raycap.models.kinds import find_kind
from raycap.models.sources import ENDPOINT
from raycap.models.vlm.vllm_requests import refuse_backend
from raycap.preflights.clocks import SAMPLE_STAGES, sample_work
from raycap.progress import OnProgress, Progress
from raycap.reporting.page import render
from raycap.reporting.preflight import preflight_section
from raycap.results.captioning import Forecast
from raycap.results.preflight import CONTACT_SHEET, Preflight, TokensAhead, write_preflight
from raycap.runs.opening import check_claim, stopping
from raycap.runs.records import now, versions
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.stores import open_store


class Reservoir:
    """A uniform random sample of rows from a stream of tables.

    Every row gets a random number, and rows with the smallest ones are kept. So the sample depends
    on the seed and the order of rows only, not on how they are cut into tables.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows = num_rows
        self._generator = np.random.default_rng(seed)
        self._kept: pa.Table | None = None
        self._draws = np.empty(0)

    def watch(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the tables, and sample from them."""
        for table in tables:
            self._add(table)
            yield table

    def rows(self) -> pa.Table | None:
        """Return the sample in random order, so that its first rows are a sample as well.

        None if there was no table.
        """
        return None if self._kept is None else self._kept.take(pa.array(np.argsort(self._draws)))

    def _add(self, table: pa.Table) -> None:
        draws = self._generator.random(len(table))
        if len(self._draws) == self._num_rows:
            # In a long stream, nearly all rows are dropped here.
            is_in = draws < self._draws.max()
            table, draws = table.filter(pa.array(is_in)), draws[is_in]
        kept = [table] if self._kept is None else [self._kept, table]
        both = np.concatenate([self._draws, draws])
        least = np.argsort(both)[: self._num_rows]
        # `take` copies: a slice would keep the whole table in memory.
        self._kept = pa.concat_tables(kept).take(pa.array(least)).combine_chunks()
        self._draws = both[least]


_FARTHEST_S = 100 * 365.25 * 86_400
_ROUNDS_OF_FETCHES = 2  # per load task of the sample, so that fetches overlap as in a run


def preflight(  # noqa: PLR0913  as `caption`
    source: str | Path,
    output: str | Path,
    num_images: int,
    *,
    config: CaptionConfig | None = None,
    source_moved_from: str | Path | None = None,
    limit: int | None = None,
    retry_failed: RetryFailed = False,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> Preflight:
    """Caption a random sample of a source, and estimate the time of captioning all of it.

    Writes `preflight/preflight.json` and `preflight/contact-sheet.html` to the output, but no
    captions. Images already captioned count as done.

    Args:
        source: As for `raycap.caption`, like all parameters not described here.
        output: The output of the run.
        num_images: Images to sample; all if there are fewer.
        config: All settings; None for the defaults.
        source_moved_from: The former address of the source, if its run is to be continued.
        limit: Use only the first images of the source, in key order.
        retry_failed: Count failed images that would be retried as remaining.
        on_progress: Called as images are answered.
        debug: Show the output of Ray and of the workers.

    Raises:
        ConfigError: the settings name a cascade or vLLM, which a preflight cannot measure.
        RunStopped: it was interrupted; nothing is written.
        RaycapError: as `raycap.caption`.
    """
    config = config or CaptionConfig()
    _check_single(config)
    store = open_store(str(output), config.storage)
    listing, config = open_with_fields(str(source), config, store)
    if config.model.backend != ENDPOINT:
        refuse_backend(config.model, "--preflight")
    check_asked(config, listing)
    model, config = settle_model(config)
    fingerprint = caption_fingerprint(listing.identity, model, config)
    is_moved = check_run(store, fingerprint, config, source_moved_from)
    reservoir = Reservoir(num_images, config.preflight.seed)
    listing.tables = reservoir.watch(limited(listing.tables, limit))
    ahead = foresee(store, listing, config, retry_failed=retry_failed, is_moved=is_moved)
    images = reservoir.rows()
    if images is None:  # though the output has some, which the source had before
        raise no_images(listing)
    with stopping(_describe_stop), ray_cluster(debug=debug) as is_fixed:
        uses_gpus = find_kind(model.kind).uses_gpus
        resources = fit_resources(config.engine, uses_gpus=uses_gpus, is_fixed=is_fixed)
        trial = _Trial(store, listing, config, model, ahead, resources, debug=debug)
        trial.caption(images, on_progress or (lambda _: None))
    result = trial.found()
    page = render([preflight_section(result, trial.answered, "preflight", config)])
    own = own_store(store)
    own.write(CONTACT_SHEET, page.encode())
    write_preflight(own, result)
    return result


def check_run(
    store: Store, fingerprint: dict[str, Any], config: CaptionConfig, former: str | Path | None
) -> bool:
    """Check that the output's run, if it holds one, is this; return whether its source has moved.

    Raises:
        RunConflict: the output belongs to another run.
    """
    move = find_move(store, fingerprint, None if former is None else str(former))
    check_claim(store, CaptionClaim(move.fingerprint, config))
    return move.is_moved


def own_store(store: Store) -> Store:
    """Return the output as it is written to: not through links within it, as in a locked run."""
    return store.unfollowing() if isinstance(store, LocalStore) else store


def _check_single(config: CaptionConfig) -> None:
    """Refuse a cascade: only a run shows how many images go to the second model."""
    if config.cascade.model is not None:
        raise ConfigError(
            "cascade.model: --preflight measures one model: leave out cascade.model and "
            "cascade.below, and run another preflight with the second model as model.name",
            setting="cascade.model",
        )


class _Trial:
    """The sample, captioned with the stages of a run, and its results."""

    def __init__(  # noqa: PLR0913  what a run is made of
        self,
        store: Store,
        listing: Listing,
        config: CaptionConfig,
        model: ModelSource,
        ahead: Forecast,
        resources: Resources,
        *,
        debug: bool,
    ) -> None:
        self._store = store
        self._listing = listing
        self._config = config
        self._model = model
        self._ahead = ahead
        self._resources = resources
        self._debug = debug
        num_parts = ahead.num_parts - ahead.num_parts_done
        self._workers = count_workers(resources, num_parts)
        self._batches = fit_batches(config, model.kind, resources)
        self._num_wanted = 0
        self._fetches_tell = True
        self._start_s = 0.0
        self._seconds = 0.0
        self.answered = schema.SAMPLE_ANSWERED.empty_table()
        """SAMPLE_ANSWERED rows in order of arrival."""

    def caption(self, images: pa.Table, on_progress: OnProgress) -> None:
        """Caption MANIFEST rows, for as long as `preflight.max_time_s` allows."""
        self._num_wanted = len(images)
        # Images in a caption dataset are read by row groups, and those in tars with their
        # neighbours, of which a sample needs few images.
        rows = images.to_pylist()
        held = (is_held(row, self._listing.source) for row in rows)
        is_held_any = self._listing.is_dataset and any(held)
        self._fetches_tell = not (is_held_any or any(map(in_tar, rows)))
        num_fetched = _ROUNDS_OF_FETCHES * self._config.engine.fetch_threads
        num_tasks = min(self._workers.load_tasks, -(-len(images) // num_fetched))
        num_actors = min(self._workers.captioners, len(images))
        resources = replace(self._resources, actors=ActorRange(min=num_actors, max=num_actors))
        spec = self._spec(spread(self._batches, len(images), num_actors))
        started = time.monotonic()
        tables = []
        stream = answered_rows(sample_work(images, num_tasks), spec, resources, SAMPLE_STAGES)
        progress = Progress(num_done=0, num_total=len(images), num_failed=0, images_per_s=0.0)
        with closing(stream):
            for table in stream:
                tables.append(table)
                self._seconds = time.monotonic() - started
                self._start_s = self._start_s or self._seconds
                progress = _after(progress, table, self._seconds)
                on_progress(progress)
                if self._seconds >= self._config.preflight.max_time_s:
                    break
        self.answered = distinct(pa.concat_tables(tables))

    def found(self) -> Preflight:
        """Return the results."""
        foreseen = estimate(
            self.answered,
            RunAhead(
                num_images=self._ahead.num_pending,
                workers=self._workers,
                max_batch=self._batches.most,
                gpus_per_captioner=self._resources.gpus_per_actor,
                fetch_threads=self._config.engine.fetch_threads,
                fetches_tell=self._fetches_tell,
                price_per_hour=self._config.preflight.price_per_hour,
                is_remote=self._config.model.backend == ENDPOINT,
                start_s=self._start_s,
            ),
        )
        return Preflight(
            source=self._listing.source,
            output=self._store.uri,
            contact_sheet=self._store.address(CONTACT_SHEET),
            num_images=self._ahead.num_images,
            num_pending=self._ahead.num_pending,
            num_wanted=self._num_wanted,
            sample=count(self.answered),
            sample_s=round(self._seconds, 2),
            estimate=foreseen,
            ends_at=None if foreseen is None else _end(foreseen.run_s),
            price_per_hour=self._config.preflight.price_per_hour,
            tokens=self._tokens_ahead(),
            captions_once=self._config.engine.deduplicate == "content",
            model=self._model.identity(),
            versions=versions(),
            made_at=now(),
        )

    def _tokens_ahead(self) -> TokensAhead | None:
        if self._config.model.backend != ENDPOINT:
            return None
        return tokens_ahead(self.answered, self._config.endpoint, self._ahead.num_pending)

    def _spec(self, batches: BatchRange) -> RunSpec:
        return RunSpec(
            output=self._store.uri,
            dataset=self._listing.source if self._listing.is_dataset else None,
            config=self._config,
            model=self._model,
            batches=batches,
            num_lanes=count_lanes(self._config, self._model.kind, self._resources),
            torch_threads=threads_per_actor(self._config.engine, self._resources.actors.max),
            debug=self._debug,
            root=self._listing.root,
            prompts=prompts_of(self._config),
            context=Context.of(self._config),
            account=open_account(self._config),
        )


def tokens_ahead(
    answered: pa.Table, endpoint: EndpointConfig, num_images: int
) -> TokensAhead | None:
    """Estimate the tokens of the run from a sample; None if its server reports none.

    Args:
        answered: SAMPLE_ANSWERED rows.
        endpoint: The prices.
        num_images: Images to caption.
    """
    into, out = answered[schema.NUM_PROMPT_TOKENS], answered[schema.NUM_TOKENS]
    if not len(answered) or into.null_count == len(into):
        return None
    per_image = [(pc.sum(column).as_py() or 0) / len(answered) for column in (into, out)]
    tokens = [round(mean * num_images) for mean in per_image]
    return TokensAhead(
        num_prompt_tokens=tokens[0],
        num_tokens=tokens[1],
        cost=endpoint.cost(tokens[0], tokens[1]),
    )


def spread(batches: BatchRange, num_images: int, num_captioners: int) -> BatchRange:
    """Limit batch sizes, and thus blocks, so that every captioner gets images of a small sample.

    A fixed batch size does not change.
    """
    if batches.least == batches.most:
        return batches
    share = num_images // (2 * num_captioners)  # a block is two of the largest batches
    return BatchRange(least=batches.least, most=max(batches.least, min(batches.most, share)))


def distinct(answered: pa.Table) -> pa.Table:
    """Remove duplicate SAMPLE_ANSWERED rows, in order of arrival.

    Rows of a dead worker are answered again.
    """
    rows = answered[schema.ROW].to_numpy()
    _, places = np.unique(rows, return_index=True)
    return answered.take(pa.array(np.sort(places)))


def _after(before: Progress, table: pa.Table, seconds: float) -> Progress:
    failed = pc.sum(pc.equal(table[schema.STATUS], schema.STATUS_FAILED)).as_py() or 0
    num_done = min(before.num_total, before.num_done + len(table))
    return replace(
        before,
        num_done=num_done,
        num_failed=before.num_failed + failed,
        images_per_s=num_done / seconds,
    )


def _end(run_s: float) -> str | None:
    if run_s > _FARTHEST_S:
        return None
    return (datetime.now(UTC) + timedelta(seconds=run_s)).isoformat(timespec="seconds")


def _describe_stop() -> str:
    return "stopped before the sample was captioned; nothing was written"
