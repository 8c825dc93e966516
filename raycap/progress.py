"""How far long work is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far long work is."""

    num_done: int
    """Images that have their row, those of earlier runs included."""
    num_total: int
    num_failed: int
    images_per_s: float
    """Of this invocation, since its first answered image. 0 before there is one."""
    stage: str = ""
    """What is under way, such as "setting 3 of at most 31", where work has stages."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left at this rate; None before there is a rate."""
        left = self.num_total - self.num_done
        return left / self.images_per_s if self.images_per_s else None


OnProgress = Callable[[Progress], None]
"""Called as images are answered."""
