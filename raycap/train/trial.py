"""A trial before training: how many captions fit into memory at a time."""

import torch

from raycap.errors import ModelError
from raycap.models.runtime import is_out_of_memory
from raycap.train.feed import Batch
from raycap.train.learner import Learner
from raycap.train.tables import Kind
from raycap.train.workers import Workers

_LONG_CAPTION = "a " * 1000
"""Longer than any model reads: it is cut to the longest caption that may come."""


def fit_memory(learner: Learner, workers: Workers, max_captions: int) -> int:
    """Find how many captions fit into memory, all of the greatest length; halve until they do.

    The optimizer's memory, and what the exchange of gradients takes, is set aside meanwhile. The
    gradients of the trial are left in place.

    Returns:
        `max_captions`, or what it had to be halved to: the same number on all workers.

    Raises:
        ModelError: memory does not suffice for a single caption.
    """
    while True:
        fits = _fits(learner, workers, max_captions)
        if workers.least(int(fits)):
            return max_captions
        if max_captions == 1:
            raise ModelError(
                "memory does not suffice to train on one image at a time; take a smaller model or "
                "image, train.precision=bf16, or (of blip) blip.gradient_checkpointing=true"
            )
        max_captions = -(-max_captions // 2)


def _fits(learner: Learner, workers: Workers, num_captions: int) -> bool:
    try:
        reserved = _reserve(learner, workers)
        learner.try_out(_longest_batch(learner, num_captions))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        learner.optimizer.zero_grad()
        _release(workers.device)
        return False
    del reserved
    _release(workers.device)
    return True


def _reserve(learner: Learner, workers: Workers) -> list[torch.Tensor]:
    """Hold what training will hold besides: two moments, unless they are there, and buckets."""
    num_moments = 0 if learner.optimizer.state else 2
    num_buckets = 1 if workers.size > 1 else 0
    return [
        torch.empty_like(value)
        for value in learner.trained.values()
        for _ in range(num_moments + num_buckets)
    ]


def _longest_batch(learner: Learner, num_captions: int) -> Batch:
    target = learner.trainable.target
    return Batch(
        kind=Kind.TRAIN,
        epoch=0,
        number=0,
        is_last=False,
        pixels=torch.zeros((num_captions, 3, target.height_px, target.width_px), dtype=torch.uint8),
        image_ids=[],
        owners=torch.arange(num_captions),
        offsets=torch.arange(num_captions),
        tokens=learner.trainable.encode([_LONG_CAPTION] * num_captions),
        references=[],
        unreadable=[],
    )


def _release(device: torch.device) -> None:
    """Give memory that is no longer used back to the device."""
    if device.type != "cpu":
        torch.accelerator.memory.empty_cache()
