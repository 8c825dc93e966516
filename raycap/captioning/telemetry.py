"""What a run tells of itself through Ray's metrics, for Prometheus.

Ray gathers them on every node and exports each under `ray_` and its name here. They are counted by
the batch and the block, never by the image, and their only tag is a failed image's error code, of a
closed list. Ray adds the node and the process that told them, and nothing of a run or its output.

What is answered is counted by the driver, as the committer takes it: an image whose worker died
after answering, and which another one answered again, counts once. An image that the second model
of a cascade captions anew counts once more; one that it fails on does not, as its caption stays.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from raycap import schema

CODE = "code"
"""The tag of failed images: an ErrorCode."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric: its name in raycap, what it means, and how it is kept."""

    kind: type[metrics.Counter] | type[metrics.Gauge] | type[metrics.Histogram]
    name: str
    meaning: str
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names under which Prometheus sees it."""
        name = f"ray_{self.name}"
        if self.kind is metrics.Counter:
            return (f"{name}_total",)
        if self.kind is metrics.Histogram:
            return tuple(f"{name}_{part}" for part in ("bucket", "sum", "count"))
        return (name,)


CAPTIONED = Measure(
    kind=metrics.Counter,
    name="raycap_images_captioned",
    meaning="Images that got a caption, as they reached the driver.",
)
FAILED = Measure(
    kind=metrics.Counter,
    name="raycap_images_failed",
    meaning="Images that became failed rows, by error code.",
    tags=(CODE,),
)
BYTES_READ = Measure(
    kind=metrics.Counter,
    name="raycap_bytes_read",
    meaning="Bytes of image files read for the images that were answered.",
)
WORDS = Measure(
    kind=metrics.Counter,
    name="raycap_words_written",
    meaning="Words of the captions that reached the driver.",
)
COMMITTED = Measure(
    kind=metrics.Counter,
    name="raycap_parts_committed",
    meaning="Parts written to the output.",
)
COMMIT_LAG = Measure(
    kind=metrics.Histogram,
    name="raycap_commit_lag_seconds",
    meaning="Seconds from a part's first rows reaching the driver until the part is written.",
)
BATCH_LATENCY = Measure(
    kind=metrics.Histogram,
    name="raycap_batch_seconds",
    meaning="Seconds that a model took for a batch of images.",
)
REMAINING = Measure(
    kind=metrics.Gauge,
    name="raycap_images_remaining",
    meaning="Images of the run that are not answered yet.",
)
UNCOMMITTED = Measure(
    kind=metrics.Gauge,
    name="raycap_parts_uncommitted",
    meaning="Parts of which rows are answered, and which are not written yet.",
)
IN_FLIGHT = Measure(
    kind=metrics.Gauge,
    name="raycap_images_in_flight",
    meaning="Images that a captioner holds.",
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


def note_answered(rows: pa.Table, num_remaining: int) -> None:
    """Count ANSWERED rows that are new, and tell how many images are left."""
    failed = rows.filter(pc.equal(rows[schema.STATUS], schema.STATUS_FAILED))
    for code, count in Counter(failed[schema.ERROR_CODE].to_pylist()).items():
        _add(FAILED, count, {CODE: code})
    _add(CAPTIONED, len(rows) - len(failed))
    _add(BYTES_READ, pc.sum(rows[schema.NUM_BYTES]).as_py() or 0)
    _add(WORDS, pc.sum(rows[schema.NUM_WORDS]).as_py() or 0)
    _metric(REMAINING).set(num_remaining)


def note_commit(lag_s: float) -> None:
    """Count a part that was written, so many seconds after its first rows came."""
    _add(COMMITTED, 1)
    _metric(COMMIT_LAG).observe(lag_s)


def note_uncommitted(num_parts: int) -> None:
    """Tell how many parts are begun and not written."""
    _metric(UNCOMMITTED).set(num_parts)


def note_batch(seconds: float) -> None:
    """Tell how long a model took for a batch."""
    _metric(BATCH_LATENCY).observe(seconds)


def note_in_flight(num_images: int) -> None:
    """Tell how many images this captioner holds."""
    _metric(IN_FLIGHT).set(num_images)


def _add(measure: Measure, amount: int, tags: dict[str, str] | None = None) -> None:
    if amount:  # Ray refuses to add nothing
        _metric(measure).inc(amount, tags)


@cache
def _metric(measure: Measure) -> Any:
    """Make a metric at its first use in a process; one for all runs of it."""
    if measure.kind is metrics.Histogram:
        return metrics.Histogram(measure.name, measure.meaning, list(_SECONDS), measure.tags)
    return measure.kind(measure.name, measure.meaning, tag_keys=measure.tags)
