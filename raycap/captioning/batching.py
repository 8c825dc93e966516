"""How many images a captioner takes at a time: found out on real images, while they are captioned.

Captions do not depend on it, so that nothing is lost by trying: each size captions images of the
run, and no image is captioned twice.
"""

import logging
from dataclasses import dataclass

from raycap.models.device import peak_memory_bytes, spare_memory_bytes

logger = logging.getLogger(__name__)

_LEAST_GAIN = 1.05  # what doubling must bring, for the next doubling to be tried
_WARM_UP_ROUNDS = 1  # of each size: memory is asked for, and kernels are chosen, at first use


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Batch sizes to choose from: doublings of the least; one size where both are the same."""

    least: int
    most: int

    @classmethod
    def fixed(cls, size: int) -> "BatchRange":
        """Allow one size only."""
        return cls(least=size, most=size)


class BatchSize:
    """The batch size of one captioner.

    Doubles as long as images/s rise by 5 % and memory suffices, then stays; falls when memory runs
    out all the same.
    """

    def __init__(self, allowed: BatchRange) -> None:
        self.current = allowed.least
        self._most = allowed.most
        self._is_settled = allowed.least == allowed.most
        self._best_size = allowed.least
        self._best_rate = 0.0
        self._num_rounds = 0
        self._peak_bytes = peak_memory_bytes()

    def note(self, num_images: int, seconds: float) -> None:
        """Learn how long images took, in batches of the current size."""
        if self._is_settled:
            return
        self._num_rounds += 1
        if self._num_rounds <= _WARM_UP_ROUNDS:
            return
        rate = num_images / seconds
        if rate < _LEAST_GAIN * self._best_rate:
            self._settle(self._best_size)
            return
        self._best_size, self._best_rate = self.current, rate
        if 2 * self.current > self._most or not self._has_room():
            self._settle(self.current)
            return
        self.current *= 2
        self._num_rounds = 0

    def shrink(self, size: int) -> None:
        """Stay at what memory sufficed for."""
        logger.warning("batch_shrunk images=%d reason=out_of_memory", size)
        self.current = size
        self._is_settled = True

    def _settle(self, size: int) -> None:
        logger.info("batch_chosen images=%d images_per_s=%.2f", size, self._best_rate)
        self.current = size
        self._is_settled = True

    def _has_room(self) -> bool:
        """Whether this machine's memory bears twice the size; an accelerator's says so itself.

        A process that asks for too much is killed, and no error tells.
        """
        grown = peak_memory_bytes() - self._peak_bytes
        self._peak_bytes += grown
        return 4 * grown < spare_memory_bytes()
