"""The caption stage with vLLM: `ray.data.llm` after the load tasks.

Ray starts the engines, keeps them busy and replaces dead ones. Rows arrive from the load tasks and
leave as ANSWERED rows, so the rest of a run does not depend on vLLM. Unlike raycap's own
captioners, an engine does not isolate an image that kills its process: such an image stops the run
at `engine.stall_timeout_s`, with everything else committed.
"""

import logging
import math
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raycap import schema
from raycap.captioning.answering import AnswerRules
from raycap.captioning.captioner import one_line
from raycap.captioning.columns import failure
from raycap.captioning.loading import RunSpec
from raycap.captioning.prompts import is_named
from raycap.config import ActorRange
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.models.base import asked_generation
from raycap.models.load import safe_folder_here
from raycap.models.vlm.vllm_requests import (
    engine_args,
    prompt_text,
    read_caption,
    request,
    sampling_params,
    structured_outputs,
)

_ENGINE_STAGE = "vLLMEngineStage"
_RETRIED: Any = {"max_retries": -1}  # as for load tasks
_QUESTION = "@raycap-question@"  # stands for the filled-in prompt in what surrounds it
_ERROR = "__inference_error__"  # Ray's column: rows with an error pass its stages unchanged


def answered_by_vllm(
    loaded: "ray.data.Dataset",
    spec: RunSpec,
    actors: ActorRange,
    gpus_per_actor: float,
    cpus_per_actor: float,
) -> "ray.data.Dataset":
    """Caption a dataset of LOADED rows; return a dataset of ANSWERED rows.

    Args:
        loaded: The images.
        spec: Of the run; its model is a vision-language model.
        actors: Number of engines.
        gpus_per_actor: If more than one, the model is split over them.
        cpus_per_actor: For an engine on at most one GPU.

    Raises:
        ModelError: the model's processor cannot be loaded, or it has no prompt.
    """
    requests = _Requests(spec)
    with nullcontext() if spec.debug else _quiet():
        processor = _processor(spec, requests, actors, gpus_per_actor, cpus_per_actor)
    if is_named(spec.prompts):
        per_prompt: Any = _per_prompt  # Ray's annotations do not include Arrow tables
        arguments: Any = {"num_prompts": len(spec.prompts)}
        loaded = loaded.map_batches(
            per_prompt, batch_size=None, batch_format="pyarrow", fn_kwargs=arguments, **_RETRIED
        )
    answered: ray.data.Dataset = processor(loaded)
    to_answered: Any = _to_answered  # Ray's annotations do not include Arrow tables
    return answered.map_batches(to_answered, batch_size=None, batch_format="pyarrow", **_RETRIED)


def _processor(
    spec: RunSpec,
    requests: "_Requests",
    actors: ActorRange,
    gpus_per_actor: float,
    cpus_per_actor: float,
) -> Any:
    """Build Ray's stages, with the run's own engine class."""
    # torch, transformers and vLLM take seconds to import, and only these runs need them here
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig  # noqa: PLC0415

    bundle = {"CPU": cpus_per_actor, "GPU": gpus_per_actor}
    if gpus_per_actor > 1:
        bundle = {"CPU": 1.0, "GPU": 1.0}  # per worker of an engine
    config: Any = vLLMEngineProcessorConfig(
        model_source=str(requests.folder),
        engine_kwargs=engine_args(spec.config.model, gpus_per_actor, spec.model.target),
        placement_group_config={"bundle_per_worker": bundle},
        concurrency=(actors.min, actors.max),
        batch_size=spec.batches.most,
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor: Any = build_processor(
        config,
        preprocess=requests,
        postprocess=_Answers(spec),
        preprocess_map_kwargs=_RETRIED,
        postprocess_map_kwargs=_RETRIED,
    )
    _guard(processor, spec, requests)
    return processor


def _guard(processor: Any, spec: RunSpec, requests: "_Requests") -> None:
    """Derive the class of engine actors from `_Guarded` and Ray's own class."""
    stage = processor.get_stage_by_name(_ENGINE_STAGE)
    # A copy: setting a field would make the stage request a GPU again.
    processor.stages[_ENGINE_STAGE] = stage.model_copy(
        update={
            "fn": type("Engine", (_Guarded, stage.fn), {}),
            "fn_constructor_kwargs": {
                **stage.fn_constructor_kwargs,
                "spec": spec,
                "grey": requests.grey(),
            },
        }
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log of Ray and vLLM at their start; errors are raised anyway."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


class _Requests:
    """Converts a LOADED row to a request; a failed row passes the engine unchanged."""

    def __init__(self, spec: RunSpec) -> None:
        self.folder = Path(spec.model.folder or "")  # checked on this node when it was found
        self._target = spec.model.target
        self._generation = spec.config.generation
        asked = [
            asked_generation(self._generation, prompt.question(prompt.text))
            for prompt in spec.prompts
        ]
        self._prompts = [prompt_text(self.folder, one.prompt) for one in asked]
        has_fields = spec.context is not None and spec.context.has_fields
        self._around = prompt_text(self.folder, _QUESTION) if has_fields else _QUESTION
        self._params = [
            sampling_params(self.folder, one) | structured_outputs(prompt.json_schema)
            for one, prompt in zip(asked, spec.prompts, strict=True)
        ]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Dropped to save transfers; to Ray, a column `model` would name an adapter.
        data = row.pop(schema.PIXELS)
        row.pop(schema.MODEL)
        if data is None:
            return {_ERROR: row[schema.ERROR_CODE]}
        shape = row.pop(schema.INPUT_HEIGHT_PX), row.pop(schema.INPUT_WIDTH_PX), 3
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        number, text = row[schema.PROMPT], self._prompts[row[schema.PROMPT]]
        if (question := _question_of(row)) is not None:
            text = self._around.replace(_QUESTION, question)
        asked = request(pixels, text, self._params[number], self._generation)
        return {**asked, _ERROR: ""}

    def grey(self) -> dict[str, Any]:
        """Return the request for a plain grey image."""
        pixels = np.full((self._target.height_px, self._target.width_px, 3), 128, np.uint8)
        return request(pixels, self._prompts[0], self._params[0], self._generation)


def _per_prompt(table: pa.Table, num_prompts: int) -> pa.Table:
    """Repeat each LOADED row for every prompt to ask.

    The prompts about an image follow one another: the engine reads what they share once, and may
    have to give up what it has cached of an image before a later prompt about it arrives.
    """
    asked = [
        list(range(num_prompts)) if prompts is None else prompts
        for prompts in table[schema.PROMPTS].to_pylist()
    ]
    places = [(place, row) for row, prompts in enumerate(asked) for place in range(len(prompts))]
    is_first, questions = table[schema.IS_FIRST].to_pylist(), table[schema.QUESTIONS].to_pylist()
    columns = {
        schema.PROMPT: [asked[row][place] for place, row in places],
        schema.IS_FIRST: [place == 0 and is_first[row] for place, row in places],
        schema.QUESTIONS: [
            None if questions[row] is None else [questions[row][place]] for place, row in places
        ],
    }
    repeated = table.take(pa.array([row for _, row in places], pa.int64()))
    for name, values in columns.items():
        place = repeated.schema.get_field_index(name)
        field = repeated.schema.field(name)
        repeated = repeated.set_column(place, field, pa.array(values, field.type))
    return repeated


def _question_of(row: dict[str, Any]) -> str | None:
    """Return the prompt that was filled in for a row of one prompt; None if it has no fields."""
    questions = row.get(schema.QUESTIONS)
    return None if questions is None else str(questions[0])


class _Answers:
    """Converts an answer of the engine to an ANSWERED row."""

    def __init__(self, spec: RunSpec) -> None:
        self._model = spec.model.name
        self._rules = AnswerRules.of(spec)
        self._max_new_tokens = [
            prompt.max_new_tokens or spec.config.generation.max_new_tokens
            for prompt in spec.prompts
        ]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        caption = read_caption(row, self._max_new_tokens[row[schema.PROMPT]])
        answered = {name: row.get(name) for name in schema.ANSWERED.names}
        if not math.isfinite(caption.logprob):
            reason = "the score of the caption is not a finite number"
            return answered | failure(ImageError(ErrorCode.MODEL_REJECTED, reason))
        # Within Ray's stages no question can be asked once more.
        found = self._rules.judge(caption, row[schema.PROMPT], _question_of(row)).columns
        return answered | found | {schema.MODEL: self._model}


def _to_answered(table: pa.Table) -> pa.Table:
    """Give all rows the columns of ANSWERED; rows that passed with an error have others."""
    rows = table.to_pylist()
    for row in rows:
        if row[_ERROR] and row[schema.STATUS] == schema.STATUS_OK:
            row |= failure(ImageError(ErrorCode.MODEL_REJECTED, " ".join(row[_ERROR].split())))
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in schema.ANSWERED.names} for row in rows],
        schema=schema.ANSWERED,
    )


class _Guarded:
    """Makes Ray's engine actor load the run's model, and reports errors clearly.

    Combined at run time with Ray's class, which is known only from a stage of its processor.
    """

    _engine: Any

    def __init__(self, spec: RunSpec, grey: dict[str, Any], **arguments: Any) -> None:
        """Start the engine.

        Args:
            spec: Of the run.
            grey: A request to send after an image failed: a bug must not look like bad images.
            arguments: For Ray's class.
        """
        # vLLM sends usage statistics by default.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self._grey: dict[str, Any] | None = grey
        self._failure: ModelError | None = None
        self._engine = super()
        try:
            folder = str(safe_folder_here(spec.model))
            self._engine.__init__(**{**arguments, "model": folder})
        except ModelError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001  whatever vLLM raises; raised at the first call
            # Raised in a constructor, it would reach the driver as text only.
            self._failure = ModelError(
                f"{spec.model.name}: vLLM does not start with it ({one_line(error)}): check that "
                "vLLM supports this model and that the memory suffices; --debug shows its output",
                uri=spec.model.name,
            )

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Caption a batch.

        Raises:
            ModelError: the engine does not start, or fails on every image.
        """
        if self._failure is not None:
            raise self._failure
        async for answered in self._engine.__call__(batch):
            yield answered

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Send a batch to the engine and yield its answers."""
        is_refused = False
        async for answer in self._engine.udf(batch):
            is_refused = is_refused or bool(answer[_ERROR])
            yield answer
        if is_refused and self._grey is not None:
            row = {**self._grey, self._engine.IDX_IN_BATCH_COLUMN: 0}
            async for answer in self._engine.udf([row]):
                if answer[_ERROR]:
                    reason = " ".join(answer[_ERROR].split())
                    raise ModelError(f"the model fails on every image: {reason}")
            self._grey = None
