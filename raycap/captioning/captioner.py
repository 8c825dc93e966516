"""The caption stage: an actor that holds a model, shrinks batches and isolates bad images.

Some images crash or hang the process of a model. A worker that replaces a dead one therefore runs
its model in a child process at first, and bisects batches down to the image that kills it.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import UInt8

from raycap import schema
from raycap.captioning import telemetry
from raycap.captioning.answering import AnswerRules, Asked, Judged, judge_all
from raycap.captioning.batching import BatchSize
from raycap.captioning.columns import failure
from raycap.captioning.loading import RunSpec
from raycap.captioning.pixels import LoadedImages
from raycap.captioning.prompts import Prompt, constant_questions, is_named
from raycap.config import EngineConfig, ModelConfig
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.images.isolation import HangWatch, Isolated, ProcessDied
from raycap.models.base import BatchRange, Caption, Captioner, Question, Questions
from raycap.models.kinds import find_kind
from raycap.models.load import load_captioner
from raycap.models.process import is_out_of_memory, use_threads

logger = logging.getLogger(__name__)

Outcome = list[Caption] | ImageError
"""The answers to the questions about an image, in their order, or why it has none."""
JudgedAnswers = Sequence[Judged | ImageError] | ImageError
"""The same after the gate; one question about an image may fail alone."""
AnswerBatch = Callable[["Batch"], list[list[Caption]]]

_ISOLATED_BLOCKS = 4  # more than the few blocks that Ray assigns to an actor ahead of time
_LEAST_LIMIT_S = 10.0
_SLOWNESS = 20.0  # an image may take this many times as long as a plain grey one
_COMPILING = 5.0  # a batch of a new size is compiled first, which takes minutes


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images, with what to ask about each."""

    pixels: UInt8[np.ndarray, "b h w 3"]
    questions: Questions | None = None
    """The same number per image; None for one caption each, by the settings."""
    unfilled: Sequence[Question] | None = None
    """What would be asked with the fields of the prompts left as they are; None if they have
    none."""

    def __len__(self) -> int:
        return len(self.pixels)

    def cut(self, start: int, stop: int) -> "Batch":
        """Return the images from one position to another."""
        questions = None if self.questions is None else self.questions[start:stop]
        return Batch(self.pixels[start:stop], questions, self.unfilled)

    def greyed(self) -> "Batch":
        """Return as many plain grey images, with the same questions.

        Without what is known of the images: it may be at fault.
        """
        questions = self.questions if self.unfilled is None else [self.unfilled] * len(self)
        return Batch(np.full_like(self.pixels, 128), questions)


class AnswersBatches(Protocol):
    """The method that the functions here need of a captioner."""

    def __call__(self, batch: Batch) -> list[list[Caption]]:
        """Answer the questions about each image of a batch, in order."""


class Answering:
    """A captioner, by its own interface."""

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner

    def __call__(self, batch: Batch) -> list[list[Caption]]:
        """Caption the images of a batch, or answer the questions about them."""
        if batch.questions is None:
            return [[caption] for caption in self._captioner.caption(batch.pixels)]
        captioner: Any = self._captioner  # the kind takes questions: checked when a run begins
        answers: list[list[Caption]] = captioner.answer(batch.pixels, batch.questions)
        return answers


def is_replacement() -> bool:
    """Whether Ray restarted this actor because its process died. False outside of Ray."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and context.was_current_actor_reconstructed


def hang_limit_s(engine: EngineConfig, model: ModelConfig) -> float:
    """Return the seconds after which a batch counts as hanging."""
    return (_COMPILING if model.compile else 1.0) * engine.hang_timeout_s


class WatchedCaptioner(Answering):
    """A captioner that ends this process if it hangs."""

    def __init__(self, captioner: Captioner, watch: HangWatch) -> None:
        super().__init__(captioner)
        self._watch = watch

    def __call__(self, batch: Batch) -> list[list[Caption]]:
        """Answer a batch."""
        with self._watch():
            return super().__call__(batch)


class IsolatedCaptioner:
    """A captioner in a child process, which is replaced when it dies or hangs.

    A plain grey image is captioned first. The time that it takes sets the limit for batches, so
    that hangs of a fast model are noticed within seconds.
    """

    def __init__(self, spec: RunSpec) -> None:
        """Prepare; the model is loaded with the first batch."""
        target = spec.model.target
        grey = np.full((1, target.height_px, target.width_px, 3), 128, np.uint8)
        self._grey = Batch(grey, constant_questions(spec.prompts, 1))
        self._limit_s = hang_limit_s(spec.config.engine, spec.config.model)
        self._is_compiled = spec.config.model.compile
        self._process: Isolated[Batch, list[list[Caption]]] = Isolated(
            partial(_load_here, spec.without_actors())
        )
        self._image_s = 0.0
        self.num_deaths = 0

    def __call__(self, batch: Batch) -> list[list[Caption]]:
        """Answer a batch.

        Raises:
            ProcessDied: the model's process died or exceeded the time limit.
            ModelError: the process dies of a plain grey image, too.
        """
        if not self._process.is_running:
            self._warm_up()
        try:
            return self._process(batch, self._limit_for(len(batch)))
        except ProcessDied as error:
            self.num_deaths += 1
            logger.warning("model_process_died images=%d reason=%s", len(batch), error)
            raise

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    def _limit_for(self, num_images: int) -> float:
        if self._is_compiled:
            return self._limit_s  # the grey image does not tell how long compiling takes
        likely_s = _SLOWNESS * self._image_s * num_images
        return min(self._limit_s, max(_LEAST_LIMIT_S, likely_s))

    def _warm_up(self) -> None:
        try:
            self._process(self._grey)  # loads the model, which may take long
            started = time.perf_counter()
            self._process(self._grey, self._limit_s)
            self._image_s = time.perf_counter() - started
        except ProcessDied as error:
            raise ModelError(
                f"the model fails on a plain grey image: {error}; check the memory, use "
                "a smaller model or fewer engine.num_actors, or --debug to see its output"
            ) from error


def _load_here(spec: RunSpec) -> AnswerBatch:
    """Load the captioner in the process that calls this."""
    use_threads(spec.torch_threads)
    return Answering(load_captioner(spec.model, spec.config.model, spec.generation))


class TableCaptioner:
    """Answers LOADED tables with a captioner, and judges the answers by the rules of a run."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._rules = AnswerRules.of(spec)
        self._takes_questions = find_kind(spec.model.kind).takes_questions

    def __call__(
        self, captioner: AnswersBatches, batch: pa.Table, batch_size: BatchSize, num_lanes: int
    ) -> pa.Table:
        """Answer for every row that has pixels and pass failed rows on. Returns ANSWERED rows.

        Args:
            captioner: The model.
            batch: The rows.
            batch_size: As of `caption_all`, like the number of lanes.
            num_lanes: Batches computed at the same time.

        Raises:
            ModelError: the model fails on every image.
        """
        images = LoadedImages(batch)
        asked = questions_of(batch, images.rows, self._spec.prompts)
        outcomes: list[Outcome] = [[]] * len(images)
        for places, questions in alike(asked, images.shapes):
            indices = () if asked is None else asked[places[0]][0]
            group = Batch(images.pixels(places), questions, unfilled(indices, self._spec))
            found = caption_all(captioner, group, batch_size, num_lanes)
            for place, outcome in zip(places, found, strict=True):
                outcomes[place] = outcome
        # Longer answers take longer: they do not count when the batch size is found.
        again = BatchSize(BatchRange.fixed(batch_size.current))
        judged = judge_all(
            self._rules,
            outcomes,
            asked or [self._rules.only_question] * len(images),
            partial(_ask_again, captioner, again, images, num_lanes)
            if self._takes_questions
            else None,
        )
        return answered_table(batch, dict(zip(images.rows, judged, strict=True)), self._spec)


def _ask_again(
    captioner: AnswersBatches,
    size: BatchSize,
    images: LoadedImages,
    num_lanes: int,
    places: list[int],
    questions: list[Question],
) -> list[Caption | ImageError]:
    """Ask one question each about some of the images, given by their positions."""
    answers: dict[int, Caption | ImageError] = {}
    asked: list[Asked] = [((), [question]) for question in questions]
    for group, of_group in alike(asked, [images.shapes[place] for place in places]):
        pixels = images.pixels([places[index] for index in group])
        found = caption_again(captioner, Batch(pixels, of_group), size, num_lanes)
        for index, one in zip(group, found, strict=True):
            answers[index] = one if isinstance(one, ImageError) else one[0]
    return [answers[index] for index in range(len(places))]


class CaptionActor:
    """Captions LOADED tables. Ray Data creates one per captioner process.

    An actor that replaces a dead one starts with its model in a child process: if an image killed
    it, that image is among the first ones and is found by bisection. After a few blocks the model
    moves into the actor's own process.
    """

    batch_size_kind: type[BatchSize] = BatchSize

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._answer = TableCaptioner(spec)
        telemetry.begin_run(spec.output)
        use_threads(spec.torch_threads)
        self._watch = HangWatch(hang_limit_s(spec.config.engine, spec.config.model))
        self._isolated: IsolatedCaptioner | None = None
        self._num_isolated = 0
        if is_replacement():
            self._isolated = IsolatedCaptioner(spec)
            self._captioner: AnswersBatches | Exception = self._isolated
            self._batch_size = self.batch_size_kind(BatchRange.fixed(spec.batches.least))
        else:
            self._load(spec.batches)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer for every row that has pixels and pass failed rows on. Returns ANSWERED rows.

        Raises:
            ModelError: the model cannot be loaded, or fails on every image.
        """
        if isinstance(self._captioner, Exception):
            raise self._captioner
        num_lanes = 1 if self._isolated else self._spec.num_lanes
        pixels = batch[schema.PIXELS]
        telemetry.note_in_flight(len(pixels) - pixels.null_count)
        answered = self._answer(self._captioner, batch, self._batch_size, num_lanes)
        telemetry.note_in_flight(0)
        if self._isolated is not None:
            self._num_isolated += 1
            if self._num_isolated == _ISOLATED_BLOCKS:
                self._end_isolation(self._isolated)
        return answered

    def _load(self, batches: BatchRange) -> None:
        spec = self._spec
        try:
            captioner = load_captioner(spec.model, spec.config.model, spec.generation)
            self._captioner = WatchedCaptioner(captioner, self._watch)
        except Exception as error:  # noqa: BLE001  raised at the first call
            # Raised in a constructor, it would reach the driver as text only.
            self._captioner = error
        # After loading, so that the model's own memory does not count as memory of a batch.
        self._batch_size = self.batch_size_kind(batches)

    def _end_isolation(self, isolated: IsolatedCaptioner) -> None:
        """Continue with the model in this process.

        If nothing died in the meantime, the memory may have run out before: then the largest batch
        is halved.
        """
        isolated.close()
        self._isolated = None
        batches, size = self._spec.batches, self._batch_size.current
        if size < batches.least:
            batches = BatchRange.fixed(size)
        elif not isolated.num_deaths:
            batches = BatchRange(least=batches.least, most=max(batches.least, batches.most // 2))
        self._load(batches)


def caption_all(
    captioner: AnswersBatches,
    images: Batch,
    batch_size: BatchSize,
    num_lanes: int = 1,
) -> list[Outcome]:
    """Caption all images in batches; every image gets its answers or a `model_rejected` error.

    A batch that runs out of memory is halved, and later batches stay that small. A batch that
    fails otherwise, or has a score that is not finite, is bisected down to the images that break
    the model. If a process dies of a batch but survives its halves, the memory had run out.

    Args:
        captioner: The model.
        images: The images.
        batch_size: Images per batch; adjusted to the measured speed.
        num_lanes: Batches computed at the same time. With two, one batch is copied to the
            accelerator and launched while the other is computed.

    Raises:
        ModelError: the memory does not suffice for one image, or the model also fails on a plain
            grey image: then the model is broken, not the image.
    """
    results: list[Outcome] = []
    with ThreadPoolExecutor(num_lanes) if num_lanes > 1 else nullcontext() as lanes:
        while len(results) < len(images):
            size = batch_size.current
            found = images.cut(len(results), len(results) + size * num_lanes)
            batches = [found.cut(start, start + size) for start in range(0, len(found), size)]
            started = time.perf_counter()
            captioned = (lanes.map if lanes else map)(partial(_caption_batch, captioner), batches)
            shrunk: list[int] = []
            for outcomes, fitted in captioned:
                results += outcomes
                shrunk += fitted
            if shrunk:
                batch_size.shrink(min(shrunk))
            elif len(found) == size * num_lanes:
                batch_size.note(len(found), time.perf_counter() - started)
    return results


def caption_again(
    captioner: AnswersBatches, images: Batch, batch_size: BatchSize, num_lanes: int
) -> list[Outcome]:
    """Caption as `caption_all` images that the model has captioned before, with longer answers.

    If it fails on all of them, the length is at fault: it is not broken, and the run goes on.
    """
    try:
        return caption_all(captioner, images, batch_size, num_lanes)
    except ModelError as error:
        logger.warning("second_answer_failed images=%d reason=%s", len(images), error)
        return [ImageError(ErrorCode.MODEL_REJECTED, one_line(error))] * len(images)


def _caption_batch(captioner: AnswersBatches, images: Batch) -> tuple[list[Outcome], list[int]]:
    """Caption a batch; return the results, and any smaller sizes that memory forced."""
    results: list[Outcome] = []
    sizes: list[int] = []
    size = len(images)
    while len(results) < len(images):
        batch = images.cut(len(results), len(results) + size)
        try:
            results += _captions(captioner, batch)
        except ModelError:
            raise  # the model could not be loaded: no image is at fault
        except Exception as error:
            if not is_out_of_memory(error):
                outcomes = _bisect(captioner, batch, error)
                results += outcomes
                if isinstance(error, ProcessDied) and _are_captions(outcomes):
                    size = max(1, len(batch) // 2)
                    sizes.append(size)
            elif len(batch) == 1:
                raise ModelError(
                    f"the memory does not suffice for one image ({one_line(error)}); use a smaller "
                    "model, a lower model.precision or fewer generation.num_beams",
                    setting="model.precision",
                ) from error
            else:
                size = len(batch) // 2
                sizes.append(size)
    return results, sizes


def _captions(captioner: AnswersBatches, batch: Batch) -> list[list[Caption]]:
    started = time.perf_counter()
    answers = captioner(batch)
    telemetry.note_batch(time.perf_counter() - started)
    told = (one.logprob for of in answers for one in of if one.has_logprob)
    if not all(map(math.isfinite, told)):
        raise FloatingPointError("the score of a caption is not a finite number")
    return answers


def _are_captions(outcomes: list[Outcome]) -> bool:
    return not any(isinstance(outcome, ImageError) for outcome in outcomes)


def _bisect(captioner: AnswersBatches, batch: Batch, error: Exception) -> list[Outcome]:
    """Find the images of a failed batch that break the model."""
    if len(batch) == 1:
        _check_alive(captioner, batch, error)
        return [ImageError(ErrorCode.MODEL_REJECTED, one_line(error))]
    outcomes: list[Outcome] = []
    middle = (len(batch) + 1) // 2
    for half in (batch.cut(0, middle), batch.cut(middle, len(batch))):
        try:
            outcomes += _captions(captioner, half)
        except ModelError:
            raise
        except Exception as inner:  # noqa: BLE001  as in _caption_batch
            outcomes += _bisect(captioner, half, inner)
    return outcomes


def _check_alive(captioner: AnswersBatches, image: Batch, error: Exception) -> None:
    """Raise if the model also fails on a grey image: a bug must not look like bad images."""
    try:
        _captions(captioner, image.greyed())
    except Exception as inner:  # noqa: BLE001  whatever a model raises
        raise ModelError(f"the model fails on every image: {one_line(inner)}") from error


def questions_of(batch: pa.Table, rows: list[int], prompts: Sequence[Prompt]) -> list[Asked] | None:
    """Return what to ask about some images: the indices of the prompts, and the questions.

    Args:
        batch: LOADED rows.
        rows: Those of the images.
        prompts: Of the run.

    Returns:
        None if each image gets one caption by the settings.
    """
    asked, texts = batch[schema.PROMPTS], batch[schema.QUESTIONS]
    if not is_named(prompts) and texts.null_count == len(texts):
        return None
    found = []
    chosen = pa.array(rows, pa.int64())
    for numbers, written in zip(
        asked.take(chosen).to_pylist(), texts.take(chosen).to_pylist(), strict=True
    ):
        indices = tuple(range(len(prompts)) if numbers is None else numbers)
        of_settings = [prompts[index].text for index in indices]
        found.append(
            (
                indices,
                [
                    prompts[index].question(text)
                    for index, text in zip(indices, written or of_settings, strict=True)
                ],
            )
        )
    return found


def alike(
    asked: list[Asked] | None, shapes: list[tuple[int, int]]
) -> Iterator[tuple[list[int], Questions | None]]:
    """Group images of one shape about which the same prompts are asked.

    So nothing is padded, and no answer depends on the other images of a batch.

    Yields:
        The positions of a group's images, and their questions.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, shape in enumerate(shapes):
        groups[shape, None if asked is None else asked[place][0]].append(place)
    for places in groups.values():
        yield places, None if asked is None else [asked[place][1] for place in places]


def unfilled(indices: Sequence[int], spec: RunSpec) -> list[Question] | None:
    """Return questions with their fields left as they are; None if the prompts have no fields."""
    if spec.context is None or not spec.context.has_fields:
        return None
    prompts = [spec.prompts[index] for index in indices]
    return [prompt.question(prompt.text) for prompt in prompts]


def answered_table(
    batch: pa.Table, outcomes: Mapping[int, JudgedAnswers], spec: RunSpec
) -> pa.Table:
    """Return the ANSWERED rows of LOADED rows.

    Args:
        batch: The loaded rows.
        outcomes: The answers about the images, by the index of their row; other rows have failed.
        spec: Of the run.
    """
    loaded = batch.drop_columns([schema.PIXELS, schema.QUESTIONS]).to_pylist()
    answered: list[dict[str, Any]] = []
    for index, row in enumerate(loaded):
        prompts = row.pop(schema.PROMPTS)
        outcome = outcomes.get(index)
        for place, prompt in enumerate(range(len(spec.prompts)) if prompts is None else prompts):
            is_first = row[schema.IS_FIRST] and place == 0
            numbered: dict[str, Any] = {schema.PROMPT: prompt, schema.IS_FIRST: is_first}
            answer = outcome[place] if isinstance(outcome, Sequence) else outcome
            if isinstance(answer, ImageError):
                numbered |= failure(answer)
            elif answer is not None:
                numbered |= answer.columns
                numbered[schema.MODEL] = spec.model.name
            answered.append({**row, **numbered})
    return pa.Table.from_pylist(answered, schema=schema.ANSWERED)


def one_line(error: Exception) -> str:
    """Describe an error of a model in one line, for a row."""
    if isinstance(error, ProcessDied):
        return f"the model failed on this image: {error}"
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    return f"{type(error).__name__}: {' '.join(text.split())}"[:300]
