"""What a run would do."""

from dataclasses import dataclass, field
from typing import Any

from raycap.bulk.estimate import Counts, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a dry run finds: nothing is written, no model is loaded."""

    num_images: int
    num_bytes: int
    """As far as listing tells sizes."""
    num_parts: int
    num_parts_done: int
    num_images_done: int
    num_pending: int
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a preflight finds. In `preflight/preflight.json` of the output."""

    source: str
    output: str
    contact_sheet: str
    """Address of the page that shows the sampled images."""
    num_images: int
    """Images of the source."""
    num_pending: int
    """Those of them that are left to caption."""
    num_wanted: int
    """Images that were drawn; fewer were captioned where the time was up."""
    sample: Counts
    """What became of those that were captioned."""
    sample_s: float
    """Seconds that it took, the loading of the model included."""
    estimate: Estimate | None
    """None if no image reached the model."""
    ends_at: str | None
    """When a run that begins now ends, in UTC; None where that is not known, or centuries away."""
    price_per_hour: float | None
    """As given, of a GPU or a captioner."""
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made_at: str
    """In UTC."""
