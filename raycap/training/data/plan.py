"""The order of images in every epoch, planned before any image is read.

A split is a sequence of row groups, each with some dozens of images of a part that are read
together. An epoch puts them in a random order and cuts that sequence into windows of about
`engine.shuffle_images` images. Within a window the images are shuffled individually, and cut into
steps of one global batch. An image file is therefore read once per epoch (its row group twice if a
window ends within it), a window fits in the memory of one task, and the order depends only on the
seed, the epoch and the global batch: not on the number of workers, nor on where a run stopped.

The last step of an epoch takes the remaining images and may be smaller than the others: each image
is used exactly once per epoch. A step's loss is the mean over its tokens, whatever their number.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Int

Rows = Int[np.ndarray, " _"]
"""Row numbers; lengths may differ within one signature."""

_SAMPLE_SPREAD = 2
"""A sample is drawn from row groups with this many times its images."""


class _Draw(IntEnum):
    """Purpose of a random number; each purpose has its own random stream."""

    GROUPS = 0
    IMAGES = 1
    STEPS = 2
    SAMPLE_GROUPS = 3
    SAMPLE_IMAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRows:
    """Some rows of one row group."""

    key: str
    """Key of the part, relative to the dataset."""
    num_bytes: int
    """Size of the part."""
    group: int
    rows: Sequence[int]
    """Within the row group, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitGroups:
    """The row groups of one split of a dataset, or of a subset of it."""

    keys: tuple[str, ...]
    """Keys of the parts."""
    num_bytes: tuple[int, ...]
    """Their sizes."""
    part: Rows
    """For each row group, the index of its part."""
    group: Rows
    """For each row group, its number within the part."""
    num_images: Rows
    """For each row group, its number of images."""
    chosen: tuple[Rows, ...] | None = None
    """For each row group, the chosen rows; None for all rows."""

    @property
    def total(self) -> int:
        """Number of images of the split."""
        return int(self.num_images.sum())

    def rows(self, index: int, rows: Sequence[int]) -> GroupRows:
        """Return some images of a row group, given their numbers within it."""
        part = int(self.part[index])
        if self.chosen is not None:
            rows = tuple(self.chosen[index][list(rows)].tolist())
        return GroupRows(
            key=self.keys[part],
            num_bytes=self.num_bytes[part],
            group=int(self.group[index]),
            rows=rows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The steps of one window from `first_step` on."""

    epoch: int
    window: int
    first_step: int
    """Counted from the start of the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochPlan:
    """The order of images in all epochs of a run."""

    groups: SplitGroups
    """Row groups of the training split."""
    seed: int
    num_workers: int
    batch_size: int
    """Images per step and worker."""
    shuffle_images: int
    """Maximum images per window; a window has at least one step."""
    bucket_by_length: bool
    """Put captions of similar length into a step."""

    @property
    def num_images(self) -> int:
        """Images per epoch."""
        return self.groups.total

    @property
    def global_batch(self) -> int:
        """Images per step, over all workers."""
        return self.num_workers * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch, including the smaller last one."""
        return -(-self.num_images // self.global_batch)

    @property
    def steps_per_window(self) -> int:
        """Steps per window, except for the last window."""
        return max(1, self.shuffle_images // self.global_batch)

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return -(-self.steps_per_epoch // self.steps_per_window)

    def spans(self, epoch: int, step: int) -> Iterator[Span]:
        """Yield the windows of an epoch from a step on."""
        if step == self.steps_per_epoch:
            return
        for window in range(step // self.steps_per_window, self.num_windows):
            first = max(step, window * self.steps_per_window)
            yield Span(epoch=epoch, window=window, first_step=first)

    def window_rows(self, epoch: int, window: int) -> list[GroupRows]:
        """Return the rows of row groups that make up a window."""
        size = self.steps_per_window * self.global_batch
        start, stop = window * size, min((window + 1) * size, self.num_images)
        order = self._generator(_Draw.GROUPS, epoch).permutation(len(self.groups.part))
        ends = np.cumsum(self.groups.num_images[order])
        starts = ends - self.groups.num_images[order]
        inside = np.flatnonzero((ends > start) & (starts < stop))
        return [
            self.groups.rows(
                int(order[at]),
                range(max(start - int(starts[at]), 0), min(stop, int(ends[at])) - int(starts[at])),
            )
            for at in inside
        ]

    def window_steps(self, epoch: int, window: int, num_words: Rows) -> list[Rows]:
        """Cut a window into steps.

        Args:
            epoch: number of the epoch.
            window: number of the window within it.
            num_words: caption length of each image of the window, in the order of `window_rows`.

        Returns:
            For each step, the indices of its images.
        """
        order = self._generator(_Draw.IMAGES, epoch, window).permutation(len(num_words))
        if self.bucket_by_length:
            rng = self._generator(_Draw.STEPS, epoch, window)
            order = _bucketed(order, num_words, self.global_batch, rng)
        return [
            order[at : at + self.global_batch] for at in range(0, len(order), self.global_batch)
        ]

    def _generator(self, draw: _Draw, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, draw, *key])


def sample_rows(groups: SplitGroups, num_images: int) -> list[GroupRows]:
    """Draw images of a split at random, the same ones in every run."""
    order = np.random.default_rng([_Draw.SAMPLE_GROUPS]).permutation(len(groups.part))
    ends = np.cumsum(groups.num_images[order])
    num_groups = int(np.searchsorted(ends, _SAMPLE_SPREAD * num_images)) + 1
    order = np.sort(order[:num_groups])
    ends = np.cumsum(groups.num_images[order])
    rng = np.random.default_rng([_Draw.SAMPLE_IMAGES])
    chosen = np.sort(rng.permutation(int(ends[-1]))[:num_images])
    found = []
    for index, end in zip(order.tolist(), ends.tolist(), strict=True):
        start = end - int(groups.num_images[index])
        rows = chosen[(chosen >= start) & (chosen < end)] - start
        if len(rows):
            found.append(groups.rows(index, tuple(rows.tolist())))
    return found


def draw_seed(*key: object) -> int:
    """Derive a 63-bit seed from the purpose of a random choice, such as an image and an epoch."""
    text = "\0".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def share_of(num_images: int, num_workers: int, worker: int) -> slice:
    """Return a worker's images of a step: a contiguous share, as even as possible."""
    size = -(-num_images // num_workers)
    return slice(worker * size, min((worker + 1) * size, num_images))


def _bucketed(order: Rows, num_words: Rows, step_size: int, rng: np.random.Generator) -> Rows:
    """Group images of similar caption length into steps, in a random order of steps."""
    # The incomplete step is drawn from all lengths: it would otherwise hold the longest captions.
    last = np.sort(rng.permutation(len(order))[: len(order) % step_size])
    whole = np.delete(order, last)
    by_length = whole[np.argsort(num_words[whole], kind="stable")].reshape(-1, step_size)
    steps = by_length[rng.permutation(len(by_length))]
    return np.concatenate([steps.ravel(), order[last]])
