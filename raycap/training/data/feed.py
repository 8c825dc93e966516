"""A worker's end of the stream: pieces in, batches of tensors out, prepared by a thread."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from raycap.errors import RunStopped
from raycap.models.trainable import IGNORED, TokenBatch, Trainable
from raycap.training.data.pieces import Kind, Piece, read_loaded
from raycap.training.workers import Workers

_READY_BATCHES = 2
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One worker's share of a training step, or of one round over a sample.

    A batch without images holds one black image and a caption without loss, because all workers
    must take part in every step.
    """

    kind: str
    epoch: int
    number: int
    """Number of the step within the epoch, or of the round."""
    is_last: bool
    """Whether it is the last of its sample."""
    pixels: UInt8[Tensor, "b 3 h w"]
    image_ids: list[str]
    """Ids of the images; empty if there is only the black one."""
    owners: Int[Tensor, " s"]
    """For each caption, the index of its image."""
    offsets: Int[Tensor, " s"]
    """For each caption, its number within the step, over all workers."""
    tokens: TokenBatch
    """Tokens of the captions, `[S, T]`."""
    references: list[list[str]]
    """For each image, all its captions; only in samples."""
    unreadable: list[str]
    """Images left out because they could not be read, each with the reason."""

    def only(self, index: int) -> "Batch":
        """Return a batch of one image and its captions."""
        mine = self.owners == index
        tokens = TokenBatch(
            inputs=self.tokens.inputs[mine],
            mask=self.tokens.mask[mine],
            targets=self.tokens.targets[mine],
        )
        return replace(
            self,
            pixels=self.pixels[index : index + 1],
            image_ids=self.image_ids[index : index + 1],
            owners=torch.zeros_like(self.owners[mine]),
            offsets=self.offsets[mine],
            tokens=tokens,
            references=self.references[index : index + 1],
            unreadable=[],
        )


class Feed:
    """A worker's batches in order; use as a context manager."""

    def __init__(
        self,
        tables: Iterator[pa.Table],
        workers: Workers,
        trainable: Trainable,
        stall_timeout_s: float,
    ) -> None:
        self._tables = tables
        self._worker = workers.rank
        self._pins = workers.device.type == "cuda"
        self._trainable = trainable
        self._stall_timeout_s = stall_timeout_s
        self._queue: Queue[Batch | BaseException] = Queue(_READY_BATCHES)
        self._stopped = Event()
        self._thread = Thread(target=self._fill, daemon=True, name="raycap-feed")

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # The thread may be waiting for the stream, which ends with this process at the latest.
        self._thread.join(timeout=_JOIN_S)

    def take(self, kind: Kind, epoch: int, number: int) -> Batch:
        """Return the next batch, which must be the given one.

        Raises:
            RunStopped: it did not arrive within `engine.stall_timeout_s`.
            RaycapError: the stream raised it.
        """
        try:
            item = self._queue.get(timeout=self._stall_timeout_s)
        except Empty:
            raise RunStopped(
                f"no image arrived for {self._stall_timeout_s:g} s (engine.stall_timeout_s); "
                "check the cluster and the dataset's storage, then run the same command to "
                "continue",
                setting="engine.stall_timeout_s",
            ) from None
        if isinstance(item, BaseException):
            raise item
        found = (item.kind, item.epoch, item.number)
        assert found == (kind, epoch, number), f"the stream gave {found}"
        return item

    def _fill(self) -> None:
        try:
            for batch in self._batches():
                self._put(batch)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  raised again by `take`
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return

    def _batches(self) -> Iterator[Batch]:
        pending: list[tuple[Piece, UInt8[np.ndarray, "_ 3 h w"]]] = []
        size = (self._trainable.target.height_px, self._trainable.target.width_px)
        for table in self._tables:
            piece, pixels = read_loaded(table, size)
            tag = piece.tag
            expected = (self._worker, len(pending))
            assert (tag.worker, tag.piece) == expected, f"the stream gave {tag}"
            pending.append((piece, pixels))
            if len(pending) == tag.num_pieces:
                for step in range(tag.first, tag.first + tag.num_steps):
                    yield self._batch(pending, step)
                pending = []

    def _batch(self, pieces: list[tuple[Piece, UInt8[np.ndarray, "_ 3 h w"]]], step: int) -> Batch:
        tag = pieces[0][0].tag
        merged = Piece(tag=tag)
        pixels = []
        for piece, images in pieces:
            mine = [index for index, number in enumerate(piece.steps) if number == step]
            pixels.append(images[mine[0] : mine[-1] + 1] if mine else images[:0])
            for name in ("image_ids", "offsets", "captions", "references"):
                getattr(merged, name).extend(getattr(piece, name)[index] for index in mine)
            if step == tag.first:
                merged.unreadable += piece.unreadable
        if not merged.image_ids:
            pixels = [np.zeros_like(pieces[0][1], shape=(1, *pieces[0][1].shape[1:]))]
        return Batch(
            kind=tag.kind,
            epoch=tag.epoch,
            number=step,
            is_last=tag.is_last,
            pixels=self._tensor(pixels),
            image_ids=merged.image_ids,
            **self._captions(merged),
            references=merged.references,
            unreadable=merged.unreadable,
        )

    def _tensor(self, pixels: list[UInt8[np.ndarray, "_ 3 h w"]]) -> UInt8[Tensor, "b 3 h w"]:
        # A copy: the stream's memory is read-only and is reused.
        copied = torch.from_numpy(np.concatenate(pixels))
        return copied.pin_memory() if self._pins else copied

    def _captions(self, piece: Piece) -> dict[str, Any]:
        """Encode the captions of a batch; for an empty batch, one caption without loss."""
        texts = [text for captions in piece.captions for text in captions]
        tokens = self._trainable.encode(texts or [""])
        if not texts:
            tokens = replace(tokens, targets=torch.full_like(tokens.targets, IGNORED))
        counts = [len(captions) for captions in piece.captions] or [1]
        starts = piece.offsets or [0]
        return {
            "tokens": tokens,
            "owners": torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
            "offsets": torch.cat(
                [torch.arange(n) + first for first, n in zip(starts, counts, strict=True)]
            ),
        }
