"""Metrics of a run, exported by Ray for Prometheus.

Ray collects them on every node and exports each with the prefix `ray_`. They are updated per batch
and block, never per image. All are tagged with their run, so that jobs that share a cluster or a
Prometheus are counted separately. Failed images are tagged with their error code, from a closed
list. Ray adds the node and the process.

The driver counts answered images as they reach the committer: an image that is answered again after
its worker died counts once. An image that the second model of a cascade captions counts once more;
one that it fails on does not, because its caption is kept. An image that awaits the caption of an
equal one counts as captioned.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from raycap import schema
from raycap.captioning.digests import is_failed

RUN = "run"
"""The tag of every metric: the run, by `run_label`."""
CODE = "code"
"""The tag of failed images: an ErrorCode."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric: its type, name and meaning."""

    kind: type[metrics.Counter] | type[metrics.Gauge] | type[metrics.Histogram]
    name: str
    meaning: str
    tags: tuple[str, ...] = (RUN,)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        name = f"ray_{self.name}"
        if self.kind is metrics.Counter:
            return (f"{name}_total",)
        if self.kind is metrics.Histogram:
            return tuple(f"{name}_{part}" for part in ("bucket", "sum", "count"))
        return (name,)


CAPTIONED = Measure(
    kind=metrics.Counter,
    name="raycap_images_captioned",
    meaning="Images with a caption that reached the driver.",
)
FAILED = Measure(
    kind=metrics.Counter,
    name="raycap_images_failed",
    meaning="Images that failed, by error code.",
    tags=(RUN, CODE),
)
BYTES_READ = Measure(
    kind=metrics.Counter,
    name="raycap_bytes_read",
    meaning="Bytes of image files read for answered images.",
)
WORDS = Measure(
    kind=metrics.Counter,
    name="raycap_words_written",
    meaning="Words of captions that reached the driver.",
)
COMMITTED = Measure(
    kind=metrics.Counter,
    name="raycap_parts_committed",
    meaning="Parts written to the output.",
)
COMMIT_LAG = Measure(
    kind=metrics.Histogram,
    name="raycap_commit_lag_seconds",
    meaning="Seconds between the first rows of a part reaching the driver and its commit.",
)
BATCH_LATENCY = Measure(
    kind=metrics.Histogram,
    name="raycap_batch_seconds",
    meaning="Seconds per batch of images in the model.",
)
REMAINING = Measure(
    kind=metrics.Gauge,
    name="raycap_images_remaining",
    meaning="Images of the run that are not answered yet.",
)
UNCOMMITTED = Measure(
    kind=metrics.Gauge,
    name="raycap_parts_uncommitted",
    meaning="Parts with answered rows that are not written yet.",
)
IN_FLIGHT = Measure(
    kind=metrics.Gauge,
    name="raycap_images_in_flight",
    meaning="Images held by a captioner.",
)

MEASURES = (
    CAPTIONED,
    FAILED,
    BYTES_READ,
    WORDS,
    COMMITTED,
    COMMIT_LAG,
    BATCH_LATENCY,
    REMAINING,
    UNCOMMITTED,
    IN_FLIGHT,
)
"""Every metric of raycap."""


@dataclass(slots=True)
class _Current:
    """The run of this process. A worker has one; a driver has one after another."""

    run: str = ""


_CURRENT = _Current()


def run_label(output: str) -> str:
    """Return the name of a run in charts: `captions-1a2b3c4d` for `s3://bucket/captions`.

    Not the whole address, since the metrics ports ask for no token.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", output.rstrip("/").rpartition("/")[2])[:40]
    digest = hashlib.sha256(output.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name}-{digest}"


def begin_run(output: str) -> str:
    """Tag the metrics of this process with the run of an output from now on; return the tag."""
    _CURRENT.run = run_label(output)
    return _CURRENT.run


def note_answered(rows: pa.Table) -> None:
    """Count new ANSWERED rows."""
    failed = rows.filter(is_failed(rows))
    for code, count in Counter(failed[schema.ERROR_CODE].to_pylist()).items():
        _add(FAILED, count, {CODE: code})
    _add(CAPTIONED, len(rows) - len(failed))
    _add(BYTES_READ, pc.sum(rows[schema.NUM_BYTES]).as_py() or 0)
    _add(WORDS, pc.sum(rows[schema.NUM_WORDS]).as_py() or 0)


def note_remaining(num_images: int) -> None:
    """Set the number of remaining images."""
    _metric(REMAINING).set(num_images, {RUN: _CURRENT.run})


def note_commit(lag_s: float) -> None:
    """Count a committed part, and its seconds since its first rows arrived."""
    _add(COMMITTED, 1)
    _metric(COMMIT_LAG).observe(lag_s, {RUN: _CURRENT.run})


def note_uncommitted(num_parts: int) -> None:
    """Set the number of parts that are started and not written."""
    _metric(UNCOMMITTED).set(num_parts, {RUN: _CURRENT.run})


def note_batch(seconds: float) -> None:
    """Record the time of a batch in the model."""
    _metric(BATCH_LATENCY).observe(seconds, {RUN: _CURRENT.run})


def note_in_flight(num_images: int) -> None:
    """Set the number of images that this captioner holds."""
    _metric(IN_FLIGHT).set(num_images, {RUN: _CURRENT.run})


def _add(measure: Measure, amount: int, tags: dict[str, str] | None = None) -> None:
    if amount:  # Ray refuses 0
        _metric(measure).inc(amount, {RUN: _CURRENT.run, **(tags or {})})


@cache
def _metric(measure: Measure) -> Any:
    """Create a metric at its first use in a process; all runs of the process share it."""
    if measure.kind is metrics.Histogram:
        return metrics.Histogram(measure.name, measure.meaning, list(_SECONDS), measure.tags)
    return measure.kind(measure.name, measure.meaning, tag_keys=measure.tags)
