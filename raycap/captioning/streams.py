"""The streams of a pass: each captions some of its parts and commits them.

One process schedules some 9,000 images per second. A large cluster therefore has several streams,
each in an actor: it draws parts from a queue as it goes, so that a slow one draws fewer, passes
them through Ray Data with its share of the captioners, and commits them under the driver's lock. On
a small cluster, the only stream runs in the driver's own process.

A stream that dies is replaced. What it had committed is found in the output; the other parts that
it had drawn return to the queue.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError

from raycap import schema
from raycap.answers.same import SameCaption
from raycap.captioning import telemetry
from raycap.captioning.captioner import CaptionActor
from raycap.captioning.cascade import Cascade
from raycap.captioning.columns import columns_of
from raycap.captioning.commit import Committer
from raycap.captioning.digests import is_failed
from raycap.captioning.loading import RunSpec, load_parts
from raycap.captioning.parts import CaptionsFooter
from raycap.captioning.plan import PartVersions
from raycap.captioning.refusals import Refusals
from raycap.captioning.same_captions import SameCaptionWatch
from raycap.captioning.stream import RUN_STAGES, Resources, Stages, answered_rows
from raycap.cluster.failures import ClusterFailed
from raycap.cluster.start import start_here
from raycap.cluster.streaming import start_shared_actors
from raycap.config import ActorRange, EngineConfig
from raycap.errors import RaycapError, RunStopped
from raycap.runs.records import LOCK
from raycap.schema import PART
from raycap.storage.base import Store, WriteLock
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)

_CAPTIONERS_PER_STREAM = 16
_MAX_TICKETS = 4096  # as many blocks as one process can keep track of
_SPARE = 1.25  # tickets of a stream that is so much faster than the average
_MAX_DEATHS = 3  # of streams that had committed nothing
_TICKET = "ticket"
_WAIT_S = 1.0
_LOOKUP_S = 60.0  # to ask the queue, which is on this machine
_REPORT_EVERY_S = 1.0  # each report takes the driver some milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What a stream has done since its last report."""

    num_answered: int = 0
    """Images."""
    num_failed: int = 0
    """Images that failed."""
    num_copies: int = 0
    """Images that await the captions of others that are the same bytes."""
    committed: list[tuple[int, CaptionsFooter]] = field(default_factory=list)
    """Parts, with their footers."""
    same_caption: SameCaption | None = None
    """The first caption for which the model seemed to ignore its images, of all reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """The description of a pass that each of its streams receives."""

    spec: RunSpec
    resources: Resources
    """Of all captioners of the stream."""
    versions: PartVersions
    cascade: Cascade | None
    has_captions: bool
    """Whether images of the source could be read before; see `Refusals`."""


class Stream:
    """One stream: captions parts, commits them, and reports."""

    def __init__(self, store: Store, lock: WriteLock, described: StreamSpec) -> None:
        self._store = store
        self._lock = lock
        self._described = described
        self._num_answered = 0
        self._num_failed = 0
        self._num_copies = 0
        self._committed: list[tuple[int, CaptionsFooter]] = []
        spec = described.spec
        self._same_captions = SameCaptionWatch(spec.config.answers.max_same_share, spec.prompts)

    def run(self, work: pa.Table, stages: Stages = RUN_STAGES) -> Iterator[None]:
        """Caption what the first stage loads, and yield after each block; `report` tells the rest.

        Raises:
            RaycapError: as a worker raised it.
            RunConflict: another writer has taken over the output.
        """
        described, commits = self._described, self._committed.append
        answered = answered_rows(work, described.spec, described.resources, stages)
        # Closed, so that Ray ends the stream at once if an error ends this loop.
        with (
            closing(answered),
            Committer(
                self._store,
                self._lock,
                described.versions,
                lambda number, footer: commits((number, footer)),
                described.cascade,
                columns_of(
                    described.spec.prompts, described.spec.config.text, described.spec.context
                ),
            ) as committer,
        ):
            try:
                for table in self._readable(answered):
                    self._count(committer.add(table))
                    yield
                committer.finish()
            finally:
                committer.drain()

    def report(self) -> StreamReport:
        """Return what has happened since the last report."""
        found = StreamReport(
            num_answered=self._num_answered,
            num_failed=self._num_failed,
            num_copies=self._num_copies,
            committed=list(self._committed),
            same_caption=self._same_captions.suspected,
        )
        self._num_answered = self._num_failed = self._num_copies = 0
        self._committed.clear()
        return found

    def _readable(self, answered: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Pass the stream on, unless no image can be read; raises as `Refusals` does."""
        max_refused = self._described.spec.config.engine.max_refused
        refusals = Refusals(max_refused, has_captions=self._described.has_captions)
        for table in answered:
            yield from refusals.passed(table)
        yield from refusals.rest()

    def _count(self, answered: pa.Table) -> None:
        self._same_captions.add(answered)
        cascade = self._described.cascade
        if len(self._described.spec.prompts) > 1:
            answered = answered.filter(answered[schema.IS_FIRST])
        # If the second model fails, the first one's caption is kept.
        kept = cascade.kept(answered) if cascade else answered
        self._num_answered += len(answered)
        failed = pc.sum(is_failed(kept)).as_py() or 0
        self._num_failed += failed
        copies = pc.equal(answered[schema.ATTEMPTS], schema.NO_ATTEMPTS)
        self._num_copies += pc.sum(copies).as_py() or 0
        telemetry.note_answered(kept)


def count_streams(engine: EngineConfig, num_captioners: int) -> int:
    """Return the number of streams: that of the settings, or one per 16 captioners.

    Args:
        engine: the settings.
        num_captioners: captioners that the cluster has room for now; a stream that has none would
            wait for one, and in the end count as stalled.
    """
    wanted = engine.num_streams or math.ceil(num_captioners / _CAPTIONERS_PER_STREAM)
    return max(1, min(wanted, num_captioners))


class WorkQueue:
    """The parts that no stream has drawn yet; an actor on the driver's machine."""

    def __init__(self, work: pa.Table, parts_per_ticket: int) -> None:
        self._work = work
        self._parts_per_ticket = parts_per_ticket
        self._drawn: dict[str, pa.Table] = {}
        self._dead: set[str] = set()

    def draw(self, ticket: str) -> pa.Table:
        """Return the next WORK rows: for the same ticket the same ones, for a dead stream none."""
        if ticket.partition("/")[0] in self._dead:  # its load tasks outlive it for a moment
            return self._work.slice(0, 0)
        if ticket not in self._drawn:
            self._drawn[ticket] = self._work.slice(0, self._parts_per_ticket)
            self._work = self._work.slice(self._parts_per_ticket)
        return self._drawn[ticket]

    def drawn_by(self, stream: str) -> pa.Table:
        """Return the WORK rows that a dead stream has drawn; from now on, it draws no more."""
        self._dead.add(stream)
        tickets = [ticket for ticket in self._drawn if ticket.startswith(f"{stream}/")]
        rows = [self._drawn.pop(ticket) for ticket in tickets]
        return pa.concat_tables([self._work.slice(0, 0), *rows])

    def give_back(self, work: pa.Table) -> int:
        """Take rows back, to be drawn first; return the number of rows in the queue."""
        self._work = pa.concat_tables([work, self._work])
        return len(self._work)


def load_drawn(tickets: pa.Table, spec: RunSpec) -> Iterator[pa.Table]:
    """Load the parts that the queue gives for tickets, as `load_parts` does."""
    for ticket in tickets[_TICKET].to_pylist():
        yield from load_parts(ray.get(spec.queue.draw.remote(ticket)), spec)


DRAWING_STAGES = Stages(load=load_drawn, captioner=CaptionActor)


class _DriversLock:
    """The driver's lock in a stream: its store checks it at every write."""

    def check(self) -> None:
        """Do nothing."""


class StreamActor:
    """A stream in a process of its own, on any node."""

    def __init__(self, described: StreamSpec, lock_token: str) -> None:
        config = described.spec.config
        store = open_store(described.spec.output, config.storage).witnessed(LOCK, lock_token)
        telemetry.begin_run(described.spec.output)
        self._stream = Stream(store, _DriversLock(), described)

    def run(self, tickets: pa.Table) -> Iterator[StreamReport | RaycapError]:
        """Yield reports; at last, the error that ended the stream, if it is one for the user."""
        reported = time.monotonic()
        try:
            for _ in self._stream.run(tickets, DRAWING_STAGES):
                if time.monotonic() - reported > _REPORT_EVERY_S:
                    yield self._stream.report()
                    reported = time.monotonic()
        except RaycapError as error:
            yield self._stream.report()
            yield error
        else:
            yield self._stream.report()


Recover = Callable[[set[int]], list[tuple[int, CaptionsFooter]]]
"""Returns which of these parts are committed, with their footers."""


class SharedStreams:
    """Several streams that share the work of a pass."""

    def __init__(
        self, work: pa.Table, described: StreamSpec, num_streams: int, lock_token: str
    ) -> None:
        """Prepare.

        Args:
            work: WORK rows.
            described: the pass; its resources are those of all streams together.
            num_streams: at least two.
            lock_token: of the held lock of the output.
        """
        per_ticket = math.ceil(len(work) / (num_streams * _MAX_TICKETS))
        self._num_tickets = math.ceil(_SPARE * len(work) / (num_streams * per_ticket)) + 1
        self._nothing = work.slice(0, 0)
        self._numbers = set(work[PART].to_pylist())
        start_shared_actors()
        self._queue = start_here(WorkQueue, work, per_ticket)
        self._described = replace(described, spec=replace(described.spec, queue=self._queue))
        self._shares = shares_of(described.resources.actors, num_streams)
        self._lock_token = lock_token
        self._running: list[_Running] = []
        self._num_started = 0
        self._committed: set[int] = set()
        self._num_barren = 0
        """Deaths since the last commit."""

    def run(self, on_report: Callable[[StreamReport], None], recover: Recover) -> None:
        """Run the streams to their end.

        Args:
            on_report: called with each report of a stream.
            recover: finds what a dead stream had committed.

        Raises:
            RaycapError: as a worker raised it.
            RunStopped: streams keep dying, or ended without having committed all parts.
        """

        def note(report: StreamReport) -> None:
            if report.committed:
                self._num_barren = 0
            self._committed.update(number for number, _ in report.committed)
            on_report(report)

        try:
            for share in self._shares:
                self._start(share)
            while self._running:
                self._follow(note, recover)
            if missing := self._numbers - self._committed:
                raise RunStopped(
                    f"the streams ended with {len(missing)} unfinished parts; run the same command "
                    "to continue"
                )
        finally:
            # Some are left after an error or an interrupt.
            for stream in self._running:
                ray.kill(stream.actor)
            for stream in self._running:
                note(self._recovered(stream, recover)[0])

    def _follow(self, note: Callable[[StreamReport], None], recover: Recover) -> None:
        """Wait for reports, and for streams that end or die."""
        by_reports = {id(stream.reports): stream for stream in self._running}
        ready, _ = ray.wait([stream.reports for stream in self._running], timeout=_WAIT_S)
        for reports in ready:
            stream = by_reports[id(reports)]
            try:
                found: Any = ray.get(next(stream.reports))
            except StopIteration:
                self._running.remove(stream)
                ray.kill(stream.actor)
                if not self._running and ray.get(self._queue.give_back.remote(self._nothing)):
                    # Every stream ran out of tickets before the queue ran out of parts.
                    self._start(self._described.resources.actors)
            except (ActorDiedError, ActorUnavailableError, NodeDiedError) as error:
                self._replace(stream, error, note, recover)
            else:
                if isinstance(found, ClusterFailed):
                    self._replace(stream, found, note, recover)
                elif isinstance(found, RaycapError):
                    raise found
                else:
                    note(found)

    def _start(self, share: ActorRange) -> None:
        self._num_started += 1
        name = f"stream-{self._num_started}"
        resources = replace(self._described.resources, actors=share)
        tickets = pa.table({_TICKET: [f"{name}/{n}" for n in range(self._num_tickets)]})
        kind: Any = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(
            StreamActor
        )
        actor = kind.remote(replace(self._described, resources=resources), self._lock_token)
        reports = actor.run.options(num_returns="streaming").remote(tickets)
        self._running.append(_Running(name=name, actor=actor, reports=reports, share=share))

    def _replace(
        self,
        dead: "_Running",
        error: Exception,
        note: Callable[[StreamReport], None],
        recover: Recover,
    ) -> None:
        logger.warning("stream_died stream=%s reason=%s", dead.name, _one_line(error))
        self._num_barren += 1
        if self._num_barren > _MAX_DEATHS:
            raise RunStopped(
                f"streams died {self._num_barren} times and committed nothing in between, at last "
                f"because of: {_one_line(error)}; run the same command to continue"
            )
        ray.kill(dead.actor)  # one that only cannot be reached, or that Ray failed, may live
        self._running.remove(dead)
        found, left = self._recovered(dead, recover)
        note(found)
        ray.get(self._queue.give_back.remote(left))
        self._start(dead.share)

    def _recovered(self, stream: "_Running", recover: Recover) -> tuple[StreamReport, pa.Table]:
        """Return what a stream had committed without a report of it, and its other work."""
        drawn: pa.Table = ray.get(self._queue.drawn_by.remote(stream.name), timeout=_LOOKUP_S)
        unknown = set(drawn[PART].to_pylist()) - self._committed
        committed = recover(unknown)
        left = sorted(unknown - {number for number, _ in committed})
        rows = drawn.filter(pc.is_in(drawn[PART], value_set=pa.array(left, pa.int64())))
        return StreamReport(committed=committed), rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Running:
    name: str
    actor: Any
    reports: Any
    """Ray's generator of references to its reports."""
    share: ActorRange


def shares_of(actors: ActorRange, num_streams: int) -> list[ActorRange]:
    """Divide captioners among streams, of which each has one at least."""
    most = [len(range(place, actors.max, num_streams)) for place in range(num_streams)]
    least = [len(range(place, actors.min, num_streams)) for place in range(num_streams)]
    return [
        ActorRange(min=max(1, fewest), max=max(1, many))
        for fewest, many in zip(least, most, strict=True)
    ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
