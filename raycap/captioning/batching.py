"""The batch size of a captioner, tuned on the images of the run while it captions them.

Captions do not depend on the batch size, so trying sizes costs nothing: every size tried captions
images of the run, and no image is captioned twice.
"""

import logging

from raycap.models.base import BatchRange
from raycap.models.process import peak_memory_bytes, spare_memory_bytes

logger = logging.getLogger(__name__)

_LEAST_GAIN = 1.05  # speedup that a doubling must bring before the next one is tried
_WARM_UP_ROUNDS = 1  # per size: the first use allocates memory and selects kernels


class BatchSize:
    """The batch size of one captioner.

    It doubles while images per second rise by at least 5 % and the memory suffices, then stays. It
    falls if the memory runs out anyway.
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
        """Record how long images took in batches of the current size."""
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
        """Fix the batch size at one that fits into memory."""
        logger.warning("batch_shrunk images=%d reason=out_of_memory", size)
        self.current = size
        self._is_settled = True

    def _settle(self, size: int) -> None:
        logger.info("batch_chosen images=%d images_per_s=%.2f", size, self._best_rate)
        self.current = size
        self._is_settled = True

    def _has_room(self) -> bool:
        """Whether this machine has memory for twice the batch size.

        Only for main memory: an accelerator reports that its memory has run out, but a process that
        takes too much main memory is killed without an error.
        """
        grown = peak_memory_bytes() - self._peak_bytes
        self._peak_bytes += grown
        return 4 * grown < spare_memory_bytes()
