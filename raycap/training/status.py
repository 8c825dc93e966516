"""How far training is, for whoever looks on."""

from collections.abc import Callable
from dataclasses import dataclass

from raycap.training.state import EpochRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far training is."""

    epoch: int
    """Counted from 1."""
    num_epochs: int
    step: int
    """Steps of the epoch that are done."""
    num_steps: int
    """Steps of an epoch."""
    loss: float | None
    """Running mean of the epoch, over tokens; None before its first step."""
    images_per_s: float
    """Of this invocation's training steps, over all workers. 0 before there is one."""
    eta_s: float | None
    """Seconds to the last epoch's end at this rate, if it does not stop early."""
    is_validating: bool = False
    epoch_record: EpochRecord | None = None
    """What the epoch came to, once, when it is over."""

    @property
    def share(self) -> float:
        """How much of all epochs is done, from 0 to 1."""
        done = (self.epoch - 1) * self.num_steps + self.step
        return done / (self.num_epochs * self.num_steps)


OnTrainingProgress = Callable[[TrainingProgress], None]
"""Called now and then while steps are taken, and at each end of an epoch."""
