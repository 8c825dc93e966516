"""Collective operations between the workers of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """This worker and its peers. All workers must call each method below, in the same order."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the output."""
        return self.rank == 0

    def sum(self, values: Sequence[int | float]) -> list[float]:
        """Return the sums of numbers over all workers."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def least(self, value: int) -> int:
        """Return the minimum of a number over all workers."""
        return min(self.gather(value))

    def gather(self, value: T) -> list[T]:
        """Return the values of all workers, in the order of their ranks."""
        if self.size == 1:
            return [value]
        gathered: list[T] = [value] * self.size
        distributed.all_gather_object(gathered, value)
        return gathered

    def share(self, value: T | None) -> T:
        """Return the first worker's value, on all workers."""
        shared = [value]
        if self.size > 1:
            distributed.broadcast_object_list(shared, src=0)
        assert shared[0] is not None
        return shared[0]

    def equalise_buffers(self, network: nn.Module) -> None:
        """Copy the first worker's buffers, such as batch norm statistics, to all workers."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)
