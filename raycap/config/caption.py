"""Settings of `raycap caption`."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raycap.config.base import Section
from raycap.config.shared import GenerationConfig, ImageConfig, ModelConfig, StorageConfig


class ActorRange(Section):
    """How many captioner actors: fixed, or between two bounds as the load demands."""

    min: int = Field(ge=1)
    """Actors at the start."""
    max: int = Field(ge=1)
    """Actors at the most."""

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


class SourceConfig(Section):
    """What of the source is captioned."""

    split: str | None = None
    """Split of a caption dataset (what `raycap prepare` wrote). None: all of it."""


class EngineConfig(Section):
    """How the work is cut up and spread over the cluster."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Images a forward pass. None: found while a run goes on, between 16 and 128 on an accelerator,
    4 and 16 on a CPU; 64 for `stub`. Calibration takes 32 and 8."""
    num_actors: Annotated[ActorRange | None, BeforeValidator(_actor_range)] = None
    """Captioner actors: `4`, or `1..8`. None: one up to as many as the cluster's GPUs, or one."""
    gpus_per_actor: float | None = Field(default=None, ge=0.0)
    """GPUs (or parts of one) an actor. None: 1 where the cluster has GPUs, otherwise 0."""
    part_size: int = Field(default=1024, ge=1, le=1_000_000)
    """Images a part: what is committed at once, and the most that a crash loses per open part."""
    fetch_threads: int = Field(default=16, ge=1, le=256)
    """Images that one load task fetches and decodes at a time."""
    torch_threads: int | None = Field(default=None, ge=1)
    """CPU threads of an actor's model. None: the machine's cores shared by `num_actors`."""
    max_failed_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of failed images above which a complete run exits with 3."""
    hang_timeout_s: float = Field(default=180.0, gt=0.0)
    """A process that is at one batch, or at decoding one image, for so long is ended and replaced;
    at a batch five times as long with `model.compile`. Images that end or hang their process are
    found, and become failed rows."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """A run in which no image is answered for so long is stopped with an error."""


class PreflightConfig(Section):
    """What `raycap caption --preflight` needs to know besides."""

    price_per_hour: float | None = Field(default=None, ge=0.0)
    """Price of a GPU for an hour, its share of the machines included; where there are no GPUs, of a
    captioner. In any currency. None: no cost is told."""
    max_time_s: float = Field(default=600.0, gt=0.0)
    """After so long, what is captioned by then is the sample."""
    seed: int = Field(default=0, ge=0)
    """Fixes which images are sampled."""


class CascadeConfig(Section):
    """A second, larger model for the images whose caption the first one is least sure of."""

    model: str | None = None
    """The second model, named as `model.name` is. None: there is none."""
    below: float | None = Field(default=None, le=0.0)
    """Images whose caption has a lower `logprob` go to the second model. Needed with it."""
    prompt: str = ""
    """What the second model is given in place of `generation.prompt`."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Of the second model, as `model.precision`."""
    backend: Literal["torch", "vllm"] = "torch"
    """Of the second model, as `model.backend`."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)
    """Of the second model, as `model.vllm_args`."""

    @model_validator(mode="after")
    def _consistent(self) -> "CascadeConfig":
        if (self.model is None) != (self.below is None):
            raise ValueError("model and below go together: set both")
        if self.vllm_args and self.backend != "vllm":
            raise ValueError("vllm_args needs backend=vllm: set both")
        return self


class CaptionConfig(Section):
    """All settings of `raycap caption`."""

    model: ModelConfig = ModelConfig()
    """Which model."""
    generation: GenerationConfig = GenerationConfig()
    """How captions are searched for."""
    image: ImageConfig = ImageConfig()
    """What is accepted as an image."""
    engine: EngineConfig = EngineConfig()
    """How the work is spread."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""
    source: SourceConfig = SourceConfig()
    """What of the source is captioned."""
    preflight: PreflightConfig = PreflightConfig()
    """How a run is tried out beforehand."""
    cascade: CascadeConfig = CascadeConfig()
    """A second model for weak captions."""
