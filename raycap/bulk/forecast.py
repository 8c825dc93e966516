"""What a run would do."""

from dataclasses import dataclass, field


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
