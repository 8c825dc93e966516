"""What an epoch came to: losses on both samples, and captions of the validation sample."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from raycap.config import GenerationConfig
from raycap.errors import DatasetError
from raycap.models.base import Captioner
from raycap.models.runtime import is_out_of_memory
from raycap.train.attention import NUM_SHOWN
from raycap.train.feed import Batch, Feed
from raycap.train.learner import Learner
from raycap.train.scores import Answer, score
from raycap.train.tables import Kind
from raycap.train.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the samples say of the weights as they are."""

    fitted_loss: float
    validation_loss: float
    scores: dict[str, float]
    """Empty on all workers but the first."""
    shown: UInt8[np.ndarray, "b h w 3"]
    """A few images of the validation sample, to be drawn: the same ones each time."""


def validate(
    learner: Learner,
    feed: Feed,
    workers: Workers,
    epoch: int,
    max_captions: int,
    generation: GenerationConfig,
) -> Measured:
    """Measure both samples, each worker its share of them; with the averaged weights, if any."""
    workers.equalise_buffers(learner.network)
    with learner.averaged():
        captioner = learner.trainable.captioner(generation)
        share = _Share()
        shown: list[UInt8[np.ndarray, "b h w 3"]] = []
        for batch in _rounds(feed, Kind.VALIDATION, epoch):
            if not shown:
                shown.append(_images(batch)[:NUM_SHOWN])
            share.add(*learner.measure(batch, max_captions))
            with learner.arithmetic():
                share.answers += _answers(captioner, batch)
        validation_loss = share.mean_loss(workers)
        gathered = [answer for answers in workers.gather(share.answers) for answer in answers]
        share = _Share()
        for batch in _rounds(feed, Kind.FITTED, epoch):
            share.add(*learner.measure(batch, max_captions))
        fitted_loss = share.mean_loss(workers)
    return Measured(
        fitted_loss=fitted_loss,
        validation_loss=validation_loss,
        scores=score(gathered) if workers.is_first else {},
        shown=shown[0],
    )


@dataclass(slots=True)
class _Share:
    """What a worker adds to the measure of a sample."""

    loss_sum: float = 0.0
    num_tokens: int = 0
    answers: list[Answer] = field(default_factory=list)

    def add(self, loss_sum: float, num_tokens: int) -> None:
        self.loss_sum += loss_sum
        self.num_tokens += num_tokens

    def mean_loss(self, workers: Workers) -> float:
        loss_sum, num_tokens = workers.sum([self.loss_sum, self.num_tokens])
        if not num_tokens:
            raise DatasetError(
                "none of the images that validation looks at can be read; make them readable, or "
                "prepare the dataset again with embed.enabled=true"
            )
        return loss_sum / num_tokens


def _rounds(feed: Feed, kind: Kind, epoch: int) -> Iterator[Batch]:
    number = 0
    while True:
        batch = feed.take(kind, epoch, number)
        yield batch
        if batch.is_last:
            return
        number += 1


def _answers(captioner: Captioner, batch: Batch) -> list[Answer]:
    if not batch.image_ids:
        return []
    captions = _caption(captioner, _images(batch))
    return [
        Answer(image_id=image_id, caption=caption, references=references)
        for image_id, caption, references in zip(
            batch.image_ids, captions, batch.references, strict=True
        )
    ]


def _images(batch: Batch) -> UInt8[np.ndarray, "b h w 3"]:
    return batch.pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _caption(captioner: Captioner, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[str]:
    """Caption images, fewer at a time where memory runs out."""
    try:
        return [caption.text for caption in captioner.caption(pixels)]
    except (RuntimeError, MemoryError) as error:
        if len(pixels) == 1 or not is_out_of_memory(error):
            raise
    return [text for half in np.array_split(pixels, 2) for text in _caption(captioner, half)]
