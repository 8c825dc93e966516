"""Progress of long work over images, and the stages before it begins."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has spent at endpoints, in all its invocations."""

    num_prompt_tokens: int = 0
    """Tokens that were read."""
    num_tokens: int = 0
    """Tokens that were generated."""
    cost: float | None = None
    """In the currency of the prices in the settings; None without prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of long work over images."""

    num_done: int
    """Images that have their row, including those of earlier invocations."""
    num_total: int
    num_failed: int
    images_per_s: float
    """Of this invocation, since its first answered image; 0 before it."""
    flagged: Mapping[str, int] = field(default_factory=dict)
    """Doubtful answers that were kept and committed, by the code of their flag."""
    num_copies: int = 0
    """Images with the captions of others that are the same bytes, or that await them."""
    stage: str = ""
    """The current stage, such as "setting 3 of at most 31", if the work has stages."""
    spent: Spent | None = None
    """Of captioning by endpoints."""

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present rate; None before there is a rate."""
        left = self.num_total - self.num_done
        return left / self.images_per_s if self.images_per_s else None


OnProgress = Callable[[Progress], None]
"""Called as images are answered."""

STAGES = "raycap.stages"
"""Name of the logger of stages: a terminal shows the last one until there is progress."""


def announce(stage: str) -> None:
    """Log the stage that begins, such as "starting Ray": its seconds have nothing else to show."""
    logging.getLogger(STAGES).info('stage="%s"', stage)
