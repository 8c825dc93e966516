"""Settings of `raycap caption`."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raycap.config.answers import AnswersConfig
from raycap.config.base import Section
from raycap.config.endpoint import EndpointConfig
from raycap.config.prompts import PromptConfig, check_prompt_names
from raycap.config.shared import GenerationConfig, ImageConfig, ModelConfig, StorageConfig
from raycap.config.source import SourceConfig
from raycap.config.text import TextConfig


class ActorRange(Section):
    """Number of captioner actors: fixed, or between two bounds depending on the load."""

    min: int = Field(ge=1)
    """Actors at the start."""
    max: int = Field(ge=1)
    """Maximum number of actors."""

    @model_validator(mode="after")
    def _ordered(self) -> "ActorRange":
        if self.min > self.max:
            raise ValueError("min must not exceed max")
        return self


def _actor_range(value: object) -> object:
    """Read `4` as exactly four actors and `1..8` as one to eight."""
    if value is None or isinstance(value, dict | ActorRange):
        return value
    match = _ACTORS.fullmatch(str(value))
    if match is None:
        raise ValueError("must be a number of actors, such as 4, or a range, such as 1..8")
    return {"min": match[1], "max": match[2] or match[1]}


_ACTORS = re.compile(r"\s*([0-9]+)\s*(?:\.\.\s*([0-9]+)\s*)?")


def _without_yaml_off(value: object) -> object:
    """Read YAML's `off`, which it takes for false, as the word."""
    return "off" if value is False else value


class EngineConfig(Section):
    """How the work is divided and distributed over the cluster."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Images per forward pass. None: adjusted during the run, between 16 and 128 on an accelerator,
    and between 4 and 16 on a CPU; 64 for `stub`. Calibration uses 32 and 8."""
    num_actors: Annotated[ActorRange | None, BeforeValidator(_actor_range)] = None
    """Captioner actors: `4`, or `1..8`. None: from one to the number of GPUs; one without GPUs."""
    gpus_per_actor: float | None = Field(default=None, ge=0.0)
    """GPUs per actor, or a fraction of one. None: 1 if the cluster has GPUs, otherwise 0."""
    num_streams: int | None = Field(default=None, ge=1, le=1024)
    """Processes that schedule the work of a run and commit its parts. None: one per 16
    actors. At most as many as the actors that the cluster has room for at the start."""
    part_size: int = Field(default=1024, ge=1, le=1_000_000)
    """Images per part. A part is committed as a whole; after a crash, at most the parts that were
    in progress are captioned again. With `model.backend=endpoint`, 128 unless it is set."""
    deduplicate: Annotated[Literal["off", "content"], BeforeValidator(_without_yaml_off)] = "off"
    """`content`: images whose files are the same bytes are captioned once, and each still has its
    own row. Can be switched on and off between the invocations of a run; captions that exist are
    kept, and new images can share them. `off`: every image is captioned."""
    fetch_threads: int = Field(default=16, ge=1, le=256)
    """Images that one load task fetches and decodes in parallel."""
    torch_threads: int | None = Field(default=None, ge=1)
    """CPU threads of an actor's model. None: the machine's cores divided by `num_actors`."""
    max_failed_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of failed images above which a complete run has exit code 3."""
    max_refused: int = Field(default=1000, ge=1)
    """A number N: stop the run if access is denied (`forbidden`) to N images in a row, or if none
    of the first N images can be read and access to most of these is denied. Otherwise such images
    become failed rows."""
    hang_timeout_s: float = Field(default=180.0, gt=0.0)
    """A process that spends this many seconds on one batch, or on decoding one image, is ended and
    replaced; with `model.compile`, a batch may take five times as long. Images that crash or hang a
    process are identified, and become failed rows."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """Stop the run with an error after this many seconds without a finished image."""


class FittedImageConfig(ImageConfig):
    """Limits on image files, and how images are fitted to the model."""

    fit: Literal["model", "square", "keep"] = "model"
    """`model`: resized to the one size that the model expects, without keeping the aspect ratio; a
    server gets images of their own aspect ratio. `square`: aspect ratio kept, and the rest of that
    size filled with the model's mean colour. `keep`: a size of its own for every image, with its
    aspect ratio; for vision-language models that accept any size."""
    max_pixels_model: int | None = Field(default=None, ge=1)
    """Largest number of pixels that the model gets of an image, where it accepts any size; larger
    images are scaled down. None: 1,048,576, and with `square` the size that `model` means."""


class PreflightConfig(Section):
    """Settings of `raycap caption --preflight`."""

    price_per_hour: float | None = Field(default=None, ge=0.0)
    """Price of one GPU per hour, including its share of the machine; without GPUs, of one captioner
    per hour. In any currency. None: no cost is estimated."""
    max_time_s: float = Field(default=600.0, gt=0.0)
    """Stop after this many seconds; the images captioned by then are the sample."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of images."""


class CascadeConfig(Section):
    """A second, larger model for the images whose captions the first model is least sure of."""

    model: str | None = None
    """The second model, named as in `model.name`. None: no second model."""
    below: float | None = Field(default=None, le=0.0)
    """Images whose caption has a lower `logprob` go to the second model. Required with `model`."""
    prompt: str = ""
    """Prompt of the second model, instead of `generation.prompt`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments for a second model that is a class of your own, as in `model.args`."""
    precision: Literal["auto", "fast", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Precision of the second model, as in `model.precision`."""
    backend: Literal["torch", "vllm", "endpoint"] = "torch"
    """Backend of the second model, as in `model.backend`."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM for the second model, as in `model.vllm_args`."""
    endpoint: EndpointConfig | None = None
    """Servers of the second model, as in the section `endpoint`. None: that section."""
    fit: Literal["model", "square", "keep"] | None = None
    """How images are fitted to the second model, as in `image.fit`. None: by the section `image`,
    as for the first model."""
    max_pixels_model: int | None = Field(default=None, ge=1)
    """Largest number of pixels for the second model, as in `image.max_pixels_model`."""

    @model_validator(mode="after")
    def _consistent(self) -> "CascadeConfig":
        if (self.model is None) != (self.below is None):
            raise ValueError("model and below go together: set both")
        if self.vllm_args and self.backend != "vllm":
            raise ValueError("vllm_args needs backend=vllm: set both")
        if self.endpoint is not None and self.backend != "endpoint":
            raise ValueError("endpoint needs backend=endpoint: set both")
        if self.max_pixels_model is not None and self.fit is None:
            raise ValueError("max_pixels_model needs fit: set both")
        return self


class CaptionConfig(Section):
    """All settings of `raycap caption`."""

    model: ModelConfig = ModelConfig()
    """The model."""
    generation: GenerationConfig = GenerationConfig()
    """How captions are generated."""
    image: FittedImageConfig = FittedImageConfig()
    """Image files, and how they are fitted to the model."""
    engine: EngineConfig = EngineConfig()
    """How the work is distributed."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""
    source: SourceConfig = SourceConfig()
    """The part of the source to caption."""
    preflight: PreflightConfig = PreflightConfig()
    """Settings of `--preflight`."""
    cascade: CascadeConfig = CascadeConfig()
    """A second model for weak captions."""
    endpoint: EndpointConfig = EndpointConfig()
    """Servers that caption, with `model.backend=endpoint`."""
    prompts: dict[str, PromptConfig] = Field(default_factory=dict)
    """Several prompts about each image by name, such as `{short: "Describe the image in one
    sentence.", long: {text: "Describe the image in detail.", max_new_tokens: 300}}`. Each answer is
    a column of its name. Empty: one caption, by `generation.prompt`."""
    answers: AnswersConfig = AnswersConfig()
    """What to do with bad answers of the model."""
    text: TextConfig = TextConfig()
    """Rules for the text after the model."""

    @field_validator("prompts")
    @classmethod
    def _named(cls, prompts: dict[str, PromptConfig]) -> dict[str, PromptConfig]:
        check_prompt_names(list(prompts))
        return prompts

    @model_validator(mode="after")
    def _consistent(self) -> "CaptionConfig":
        if self.prompts and self.generation.prompt:
            raise ValueError("prompts replace generation.prompt: set one of them")
        if self.prompts and self.cascade.model is not None:
            raise ValueError("cascade.model cannot go with prompts: set one of them")
        return self
