"""Every setting of raycap: frozen, checked, with its unit in its name.

A setting is given in a YAML file (`--config run.yaml`) or on the command line
(`--set engine.batch_size=16`); the command line wins. `None` always means "decide for me".
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from raycap.errors import ConfigError

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, values: Any) -> Any:
        """Take a heading whose settings are all commented out, which YAML reads as null."""
        if not isinstance(values, dict):
            return values
        empty = [
            name
            for name, field in cls.model_fields.items()
            if _is_section(field.annotation) and values.get(name, ...) is None
        ]
        return {name: value for name, value in values.items() if name not in empty}


class ModelConfig(Section):
    """Which model captions, and in which arithmetic."""

    name: str = DEFAULT_MODEL
    """A Hub name, `name@revision`, a local folder, `demo` (ships with raycap) or `stub`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on an accelerator that has it, otherwise fp16 there, and fp32 on a CPU."""
    stub_latency_s: float = Field(default=0.0, ge=0.0, le=60.0)
    """Seconds that the `stub` model takes for a batch: for dry runs and engine benchmarks."""


class SamplingConfig(Section):
    """Draw tokens at random instead of searching for the likeliest caption."""

    enabled: bool = False
    """Sample. Needs `generation.num_beams` 1."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw from the k likeliest tokens only. None: from all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = Field(default=0, ge=0)
    """With the image's own pixels it fixes every draw, whatever the batch or the actor."""


class GenerationConfig(Section):
    """How a caption is searched for."""

    num_beams: int = Field(default=3, ge=1, le=64)
    """Beams of the search; 1 is greedy. BLIP's authors use 3."""
    max_new_tokens: int = Field(default=20, ge=1, le=500)
    """Longest caption, in tokens, the prompt not counted."""
    min_new_tokens: int = Field(default=0, ge=0, le=500)
    """Shortest caption, in tokens, the prompt not counted."""
    length_penalty: float = 1.0
    """Exponent of the length in the beam score: above 0 favours long captions. Beams only."""
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    """Above 1 makes tokens that stand in the caption already less likely."""
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    """No run of that many tokens appears twice; 0 allows all."""
    prompt: str = ""
    """Text that every caption continues, such as "a picture of"."""
    num_captions: int = Field(default=1, ge=1, le=64)
    """Captions an image: the best in `caption`, the rest in `alternatives`."""
    sampling: SamplingConfig = SamplingConfig()
    """Random draws instead of search."""

    @model_validator(mode="after")
    def _consistent(self) -> "GenerationConfig":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens must not exceed max_new_tokens")
        if self.sampling.enabled and self.num_beams > 1:
            raise ValueError("sampling needs num_beams=1")
        if not self.sampling.enabled and self.num_captions > self.num_beams:
            raise ValueError(
                "num_captions must not exceed num_beams (or set sampling.enabled=true)"
            )
        return self


class ImageConfig(Section):
    """What is accepted as an image."""

    max_bytes: int = Field(default=100_000_000, ge=1)
    """Larger files become `too_large` rows, unread."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Images of more pixels become `too_large` rows, undecoded (the default is Pillow's limit)."""


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


class EngineConfig(Section):
    """How the work is cut up and spread over the cluster."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Images a forward pass. None: 32 on an accelerator, 8 on a CPU, 64 for `stub`."""
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
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """A run in which no image is answered for so long is stopped with an error."""


class StorageConfig(Section):
    """How folders, buckets and web addresses are reached."""

    timeout_s: float = Field(default=30.0, gt=0.0)
    """Longest wait for a connection or for the next bytes."""
    num_retries: int = Field(default=5, ge=0, le=50)
    """Further attempts after a throttled, failed or broken request, with growing random waits."""
    anonymous: bool = False
    """Do not sign requests: for public buckets."""
    list_threads: int = Field(default=16, ge=1, le=256)
    """Prefixes listed, and small files read or written, at a time."""


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


ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(kind: type[ConfigT], file: Path | None, settings: list[str]) -> ConfigT:
    """Read a YAML file, lay `key.path=value` settings over it, and check the whole.

    Raises:
        ConfigError: the file cannot be read, a setting has no `=`, or a value is not allowed;
            the message names the path and what is allowed there.
    """
    values = _read_yaml(file) if file else {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {setting}: write it as --set section.field=value")
        _assign(values, path.strip(), _parse_value(path.strip(), text.strip()))
    return validate_config(kind, values)


def validate_config(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Check a nested mapping of settings.

    Raises:
        ConfigError: a key is unknown or a value not allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, item) for item in error.errors())) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: cannot be read as YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{file}: must be a mapping of sections, such as 'engine: {{...}}'")
    return values


def _parse_value(path: str, text: str) -> Any:
    """Read a value: as YAML where it is quoted, a mapping, a list or null, else as it stands.

    Numbers and truth values stay text, which the field turns into what it wants: a prompt may
    well be "2024" or "no".
    """
    if text.lower() in ("null", "~"):
        return None
    if not text.startswith(("'", '"', "{", "[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--set {path}: {text!r} is not a YAML value: {reason}") from None


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {section} is a value, not a section")
        values = inner
    values[field] = value


def _explain(kind: type[Section], error: Any) -> str:
    """Say in one line which setting is wrong, and what is allowed there."""
    path = ".".join(str(item) for item in error["loc"])
    if error["type"] != "extra_forbidden":
        reason = error["msg"].removeprefix("Value error, ")
        return f"{path or 'config'}: {reason}, got {_brief(error['input'])}"
    section = kind
    for name in error["loc"][:-1]:
        section = _section_of(section, str(name))
    return f"{path}: no such setting; there are: {', '.join(section.model_fields)}"


def _section_of(section: type[Section], name: str) -> type[Section]:
    """Find the type of a section's field, which may be optional."""
    kind: Any = section.model_fields[name].annotation
    found = next((item for item in (kind, *get_args(kind)) if _is_section(item)), section)
    return cast(type[Section], found)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
