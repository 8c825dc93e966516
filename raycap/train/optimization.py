"""What moves the weights: AdamW, its schedule, and their average."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raycap.config import OptimizerConfig


def learning_rate(step: int, num_steps: int, peak: float, config: OptimizerConfig) -> float:
    """Give the learning rate of a step, counted from 0: linear warm-up, then half a cosine.

    Source: Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts.
    """
    num_warmup = round(config.warmup_share * num_steps)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    floor = config.final_lr_share
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def make_optimizer(parameters: dict[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Vectors do not decay: they are biases and the gains of norms.
    """
    decayed = [value for value in parameters.values() if value.ndim > 1]
    others = [value for value in parameters.values() if value.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


class Average:
    """An exponential moving average of the weights (Polyak & Juditsky 1992)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take a step of the weights in."""
        for name, value in self._parameters.items():
            self.values[name].lerp_(value, 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the weights within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            held: Tensor = self.values[name]
            self.values[name], parameter.data = parameter.data, held
