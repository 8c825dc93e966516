"""How far a run is, and what one would do."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    num_done: int
    """Images that have their row, those of earlier runs included."""
    num_total: int
    num_failed: int
    images_per_s: float
    """Of this invocation, since its first answered image. 0 before there is one."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left at this rate; None before there is a rate."""
        left = self.num_total - self.num_done
        return left / self.images_per_s if self.images_per_s else None


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


OnProgress = Callable[[Progress], None]
"""Called as images are answered."""
