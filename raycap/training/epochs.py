"""The end of an epoch: validate, watch for overfitting, write checkpoint, model and history.

Validation measures the loss on a sample of each split, and scores captions of the validation
sample. Both losses are measured in the same way, so that their difference is the generalisation gap
and nothing else: on samples of equal size, without augmentation, always with the same caption per
image, without dropout and label smoothing, with the weights at the end of the epoch. The running
mean over the training steps is reported as well, but does not measure the fit: it lags behind, and
includes augmentation and dropout.

A model with attention also draws where it looks, in `attention.jpg`, for the best epoch.
TensorBoard event files are written one per epoch, so that a resumed run writes none twice.
"""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain

import numpy as np
from jaxtyping import UInt8

from raycap.config import GenerationConfig
from raycap.errors import ConfigError, DatasetError
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths, mean_length
from raycap.metrics.scores import mean, score_images
from raycap.metrics.tokenizer import is_unsplit, tokenize
from raycap.models.base import AttentiveCaptioner, Captioner
from raycap.models.process import is_out_of_memory
from raycap.results.labels import LENGTH_GAP, MEAN_TOKENS, REFERENCE_MEAN_TOKENS
from raycap.results.training import (
    ATTENTION,
    HISTORY,
    TREND_EPOCHS,
    EpochRecord,
    Losses,
    Metric,
    best_epoch,
    encode_history,
    judge_fit,
    overfits_since,
)
from raycap.schema import BLEU, CIDER_D, ROUGE_L
from raycap.storage.base import Store
from raycap.training.attention_maps import attention_sheet, encode_sheets
from raycap.training.checkpoints import (
    State,
    replacing,
    temporary_folder,
    write_checkpoint,
    writing_to,
)
from raycap.training.data.feed import Batch, Feed
from raycap.training.data.pieces import Kind
from raycap.training.learner import Learner
from raycap.training.preparing import Run
from raycap.training.workers import Workers

BEST = "model/"
LAST = "last/"
EVENTS = "tensorboard/"
NUM_SHOWN = 4
"""Validation images in `attention.jpg`."""
_UNSPLIT_SHARE = 0.05
"""Share of references that the tokenizer cannot split, above which there is a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results of a validation."""

    fitted_loss: float
    validation_loss: float
    scores: dict[str, float]
    """Empty on all workers except the first, as is the share."""
    unsplit_share: float
    """Share of the references that the tokenizer cannot split into words."""
    shown: UInt8[np.ndarray, "b h w 3"]
    """Some images of the validation sample for `attention.jpg`: the same ones each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The model's caption of an image, and its references."""

    image_id: str
    caption: str
    references: list[str]


def end_epoch(run: Run, feed: Feed, state: State, lr: float) -> EpochRecord:
    """Validate, advance the state to the next epoch, and write the epoch's files."""
    started = time.monotonic()
    generation = run.config.generation
    measured = validate(run.learner, feed, run.workers, state.epoch, state.max_captions, generation)
    seconds = time.monotonic() - started
    record = _record(run, state, measured, lr, seconds) if run.workers.is_first else None
    record = run.workers.share(record)
    state.end_epoch(record)
    if run.workers.is_first:
        write_checkpoint(run.store, run.learner, state)
        keep_epoch(run, state)
        if record.is_best:
            write_attention(run, measured.shown)
        _report_fit(run, state)
        if state.epoch == 1 and measured.unsplit_share > _UNSPLIT_SHARE:
            run.reporter.warn(
                f"{measured.unsplit_share:.0%} of the references have no spaces between words "
                "(Chinese, Japanese, Thai, ...), and count as one token in lengths, BLEU, ROUGE-L "
                "and CIDEr-D: choose the best epoch by validation.metric=loss"
            )
    return record


def keep_epoch(run: Run, state: State) -> None:
    """Write the last epoch's files that follow its checkpoint: best model, history, events."""
    if state.history[-1].is_best:
        save_model(run, state, BEST)
    run.store.write(HISTORY, encode_history(state.history))
    if run.config.train.tensorboard:
        write_events(run.store, state.history[-1])


def is_over(run: Run, state: State) -> bool:
    """Whether all epochs are done, or `validation.patience` is exhausted."""
    settings = run.config.validation
    values = [record.value(settings.metric) for record in state.history]
    is_done = state.epoch == run.config.train.num_epochs
    losses = [record.validation_loss for record in state.history]
    return is_done or is_exhausted(values, losses, settings.metric, settings.patience)


def save_model(run: Run, state: State, prefix: str) -> None:
    """Write the model of the last epoch, with the averaged weights if there are any."""
    record = state.history[-1]
    training = {**run.origin, "epoch": record.epoch, "metrics": asdict(record)}
    with replacing(run.store, prefix) as folder, run.learner.averaged():
        run.learner.trainable.save(folder, run.config.generation, training)


def _record(
    run: Run, state: State, measured: Measured, lr: float, validation_s: float
) -> EpochRecord:
    now = Losses(fitted=measured.fitted_loss, validation=measured.validation_loss)
    losses = [*(record.losses for record in state.history), now]
    metric = run.config.validation.metric
    value = now.validation if metric == "loss" else measured.scores[metric]
    values = [*(record.value(metric) for record in state.history), value]
    return EpochRecord(
        epoch=state.epoch + 1,
        num_steps=state.num_steps,
        num_images=state.num_images,
        num_unreadable=state.num_unreadable,
        lr=lr,
        train_loss=state.loss_sum / max(1, state.num_tokens),
        fitted_loss=now.fitted,
        validation_loss=now.validation,
        gap=now.gap,
        gap_trend=gap_trend(losses),
        overfits_since=overfits_since(losses),
        scores=measured.scores,
        is_best=best_epoch(values, [it.validation for it in losses], metric) == len(values),
        images_per_s=round(state.num_images / state.train_s, 2) if state.train_s else 0.0,
        train_s=round(state.train_s, 2),
        validation_s=round(validation_s, 2),
    )


def _report_fit(run: Run, state: State) -> None:
    """Report overfitting when it begins, begins at another epoch, or is over."""
    before, now = [None, *(record.overfits_since for record in state.history)][-2:]
    if now == before:
        return
    verdict = judge_fit([record.losses for record in state.history], now)
    if now is None:
        run.reporter.note(f"overfitting reported since epoch {before} is over: {verdict}")
    else:
        run.reporter.warn(verdict)


def gap_trend(epochs: Sequence[Losses]) -> float | None:
    """Return the growth of the gap per epoch: the slope through the last TREND_EPOCHS.

    None before the second epoch.
    """
    gaps = [losses.gap for losses in epochs[-TREND_EPOCHS:]]
    if len(gaps) < 2:
        return None
    middle = (len(gaps) - 1) / 2
    spread = sum((x - middle) ** 2 for x in range(len(gaps)))
    return sum((x - middle) * gap for x, gap in enumerate(gaps)) / spread


def is_exhausted(
    values: Sequence[float], losses: Sequence[float], metric: Metric, patience: int | None
) -> bool:
    """Whether `patience` epochs have passed without an improvement; see `best_epoch`."""
    if patience is None or not values:
        return False
    return len(values) - best_epoch(values, losses, metric) >= patience


def validate(
    learner: Learner,
    feed: Feed,
    workers: Workers,
    epoch: int,
    max_captions: int,
    generation: GenerationConfig,
) -> Measured:
    """Measure both samples, each worker its share; with the averaged weights, if there are any."""
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
        unsplit_share=_unsplit_share(gathered),
        shown=shown[0],
    )


@dataclass(slots=True)
class _Share:
    """One worker's contribution to the measure of a sample."""

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
                "none of the validation images can be read; make them readable, or prepare the "
                "dataset again with embed.enabled=true",
                setting="embed.enabled",
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
    """Caption images, in halves if memory runs out."""
    try:
        return [caption.text for caption in captioner.caption(pixels)]
    except (RuntimeError, MemoryError) as error:
        if len(pixels) == 1 or not is_out_of_memory(error):
            raise
    return [text for half in np.array_split(pixels, 2) for text in _caption(captioner, half)]


def score(answers: Sequence[Answer]) -> dict[str, float]:
    """Score captions by BLEU, ROUGE-L, CIDEr-D and their length in tokens.

    CIDEr-D takes its document frequencies from these references. The length gap is the mean length
    of the captions minus that of the references: negative means too short.

    Raises:
        ValueError: there are no captions.
    """
    captions = [tokenize(answer.caption) for answer in answers]
    references = [[tokenize(text) for text in answer.references] for answer in answers]
    found = score_images(captions, references, DocumentFrequencies.of(references))
    bleu = corpus_bleu(found.bleu_counts.sum(axis=0))
    length = mean_length(count_lengths(captions))
    wanted = mean_length(count_lengths(chain.from_iterable(references)))
    return {
        **dict(zip(BLEU, bleu.tolist(), strict=True)),
        ROUGE_L: mean(found.rouge_l),
        CIDER_D: mean(found.cider_d),
        MEAN_TOKENS: length,
        REFERENCE_MEAN_TOKENS: wanted,
        LENGTH_GAP: length - wanted,
    }


def _unsplit_share(answers: Sequence[Answer]) -> float:
    references = [text for answer in answers for text in answer.references]
    return sum(map(is_unsplit, references)) / max(1, len(references))


def write_attention(run: Run, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
    """Draw where the model looks in some images, word by word, if it has attention.

    The network must be in evaluation mode.
    """
    captioner = run.learner.trainable.captioner(run.config.generation)
    if not isinstance(captioner, AttentiveCaptioner) or not len(pixels):
        return
    with run.learner.averaged(), run.learner.arithmetic():
        attended = captioner.attend_words(pixels)
    sheets = [
        attention_sheet(image, found.texts, found.weights)
        for image, found in zip(pixels, attended, strict=True)
    ]
    run.store.write(ATTENTION, encode_sheets(sheets))


def check_tensorboard() -> None:
    """Check that event files can be written.

    Raises:
        ConfigError: the package that writes them is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "train.tensorboard=true needs the extra raycap[tensorboard]: "
            "pip install 'raycap[tensorboard]'",
            setting="train.tensorboard",
        )


def write_events(store: Store, record: EpochRecord) -> None:
    """Write an epoch's event file. TensorBoard reads the files of a run in order of their names."""
    check_tensorboard()
    from tensorboardX import SummaryWriter  # noqa: PLC0415  an optional extra

    with temporary_folder("events") as folder:
        with writing_to(folder), SummaryWriter(str(folder)) as writer:
            for name, value in _scalars(record).items():
                writer.add_scalar(name, value, record.num_steps)
        (file,) = folder.iterdir()
        store.upload(f"{EVENTS}events.out.tfevents.{record.epoch:06d}", file)


def _scalars(record: EpochRecord) -> dict[str, float]:
    return {
        "loss/train": record.train_loss,
        "loss/fitted": record.fitted_loss,
        "loss/validation": record.validation_loss,
        "loss/gap": record.gap,
        "lr": record.lr,
        "images_per_s": record.images_per_s,
        **{f"scores/{name}": value for name, value in record.scores.items()},
    }
