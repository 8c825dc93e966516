"""The interfaces of captioners and of kinds of captioner. Imports no Ray, no storage, no torch.

A captioner turns pixels into captions. A kind of captioner knows the folders of its models: it
checks them without torch, loads them, and says how many images they take at a time. `kinds` is the
registry of all kinds.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from raycap.config import GenerationConfig, ModelConfig, TrainConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.images.grids import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A caption of one image."""

    text: str
    """Without special tokens; with the prompt, if there is one."""
    logprob: float
    """Mean log-probability (natural logarithm) of the generated tokens under the model, including
    the end token, excluding the prompt. Penalties, temperature and beams do not change it. NaN if
    the model or a server does not tell."""
    alternatives: "tuple[Caption, ...]" = ()
    """Further captions, if the settings ask for several."""
    finish: str | None = None
    """How it ended: `stop`, or `length` if it reached the maximum number of tokens; None if
    unknown."""
    num_tokens: int | None = None
    """Generated tokens, without the end token; None if unknown."""
    num_prompt_tokens: int | None = None
    """Tokens that the model read, those of the image included; None if unknown."""
    has_logprob: bool = True
    """Whether the model gives a `logprob`. If so, NaN means that the model broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt about one image, complete."""

    text: str
    """As `generation.prompt`, instead of it."""
    max_new_tokens: int | None = None
    """Instead of `generation.max_new_tokens`, if set."""
    is_shortened: bool = False
    """Whether a model whose length is too small for so many tokens writes as many as it can."""
    seed: int | None = None
    """Instead of `generation.sampling.seed`, if set."""
    json_schema: str | None = None
    """JSON schema that the answer must satisfy, as JSON; None for text."""


@runtime_checkable  # the type checks of the test run use isinstance
class Captioner(Protocol):
    """A loaded model that captions images."""

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch: one result per image, in order.

        A caption depends on its own image only, not on the rest of the batch.
        """


Questions = Sequence[Sequence[Question]]
"""What to ask of each image of a batch: the same number of questions per image."""


@runtime_checkable  # the type checks of the test run use isinstance
class AnsweringCaptioner(Captioner, Protocol):
    """A captioner whose prompts can differ from image to image."""

    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        """Answer the questions about each image of a batch, in order.

        An answer depends on its own image and question only.
        """


@runtime_checkable  # calibration uses it to refuse other captioners
class AdjustableCaptioner(Captioner, Protocol):
    """A captioner whose generation settings can be changed. Calibration needs this."""

    def with_generation(self, generation: GenerationConfig) -> Captioner:
        """Return a captioner with other settings that shares the weights.

        Raises:
            ModelError: the model cannot write captions of that length.
        """

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count tokens as `generation.max_new_tokens` does, without the end token."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attended:
    """The attention of a model over an image for each word of a caption."""

    texts: list[str]
    """The words in order."""
    weights: Float[np.ndarray, "t gh gw"]
    """One weight per word and cell of a grid over the image; the weights of a word sum to 1."""


@runtime_checkable  # training uses it to find the models that have attention maps
class AttentiveCaptioner(Captioner, Protocol):
    """A captioner that can return its attention."""

    def attend_words(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Attended]:
        """Return the attention for each word of the best caption: the mean over its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """A LoRA adapter that was found and identified, but not loaded."""

    name: str
    """As given by the user, without the revision."""
    revision: str | None
    """Commit of an adapter on the Hub; None for a folder."""
    folder: str
    digest: str
    """SHA-256 over its settings and weights, in hex."""
    base: str | None
    """Name of the model that it was trained on, as it names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that was found and identified, but not loaded. Small and picklable, without torch."""

    kind: str
    """Name of a kind in `kinds.KINDS`, such as `blip`."""
    name: str
    """As given by the user, without the revision."""
    revision: str | None
    """Commit of a Hub model; None for a folder or a built-in model."""
    folder: str | None
    """Local folder with config, weights and tokenizer; None for a model without files."""
    digest: str
    """SHA-256 over weights, tokenizer, architecture and preprocessing, in hex. Models with equal
    digests write equal captions."""
    target: Target
    """Size of the input images, and how to resample to it."""
    generation: GenerationConfig | None = None
    """The generation settings saved with the model; None if it has none."""
    adapter: AdapterSource | None = None
    """The adapter to merge into the weights when they are loaded."""
    root: str | None = None
    """Folder to import a class of the user's own from; None if its package is installed."""

    def identity(self) -> dict[str, Any]:
        """Return the part of the model that belongs to a run's fingerprint."""
        adapter = self.adapter
        adapted = {"adapter": {"name": adapter.name, "digest": adapter.digest}} if adapter else {}
        return {
            **adapted,
            "kind": self.kind,
            "name": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "preprocessing": self.target.describe(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Allowed batch sizes: doublings of the smallest, or one size if both are equal."""

    least: int
    most: int

    @classmethod
    def fixed(cls, size: int) -> "BatchRange":
        """Allow one size only."""
        return cls(least=size, most=size)


class CaptionerKind(ABC):
    """A kind of captioner. To add one, subclass this in a new file and list it in `kinds`."""

    name: str
    """In `raycap.json`, in fingerprints and in messages."""
    uses_gpus: ClassVar[bool] = True
    """Whether its models run on a GPU if the cluster has one."""
    is_threadsafe: ClassVar[bool] = True
    """Whether threads may caption with one model at the same time, a batch each."""
    compiles: ClassVar[bool] = False
    """Whether `model.compile` is supported."""
    has_int8: ClassVar[bool] = False
    """Whether `model.precision=int8` is supported."""
    takes_adapters: ClassVar[bool] = False
    """Whether `model.adapter` is supported."""
    runs_on_vllm: ClassVar[bool] = False
    """Whether `model.backend=vllm` is supported."""
    takes_questions: ClassVar[bool] = False
    """Whether its models are AnsweringCaptioners: `prompts` are supported."""
    answers_freely: ClassVar[bool] = False
    """Whether its models follow instructions, instead of captioning in the style of their training:
    it decides the default actions for bad answers."""
    is_remote: ClassVar[bool] = False
    """Whether its models run on servers, which get image files: `model.backend=endpoint`."""
    has_files: ClassVar[bool] = True
    """Whether its models have files."""
    is_built_in: ClassVar[bool] = False
    """Whether it has one model, which ships with raycap under the name of the kind."""
    extra_files: ClassVar[tuple[str, ...]] = ()
    """Files that decide captions, besides those of `folders.digest_folder`."""

    def recognises(self, model_type: str) -> bool:
        """Whether a folder with this `model_type` in `config.json` holds a model of this kind."""
        return model_type == self.name

    def built_in(self, name: str) -> ModelSource:
        """Return the model of a built-in or remote kind, under the name that the user gave."""
        raise NotImplementedError

    def check_settings(self, model: ModelConfig) -> None:
        """Make sure that the models of the kind support the settings of the model.

        Raises:
            ModelError: they do not.
        """
        if model.args:
            raise ModelError(
                f"model.args: {model.name} is of kind {self.name}, which takes none: leave it out",
                setting="model.args",
            )

    def check_here(self, source: ModelSource, model: ModelConfig) -> None:  # noqa: B027
        """Make sure that this node has the model that was found; for kinds without files.

        Raises:
            ModelError: it has not.
        """

    @abstractmethod
    def check(self, folder: Path) -> Target:
        """Check that a folder holds a complete model of this kind. Imports no torch.

        Returns:
            Size of the model's input images, and how to resample to it.

        Raises:
            ModelError: a file is missing or invalid, or files contradict each other.
        """

    @abstractmethod
    def load(
        self, folder: Path | None, model: ModelConfig, generation: GenerationConfig
    ) -> Captioner:
        """Load a checked folder onto the accelerator, or onto the CPU if there is none.

        Args:
            folder: None for a model without files.
            model: Precision and backend; `adapter` is a folder on this machine.
            generation: How captions are generated.

        Raises:
            ModelError: the files cannot be loaded, or do not support the settings.
        """

    def grid(self, source: ModelSource, max_pixels: int) -> Grid | None:  # noqa: ARG002
        """Return the sizes of images that a model reads, if their aspect ratio is kept.

        Args:
            source: The model.
            max_pixels: Pixels of an image that the grid should not exceed.

        Returns:
            None if the model reads only images of its target's size.
        """
        return None

    def fitted(self, captioner: Captioner, target: Target) -> Captioner:  # noqa: ARG002
        """Return a loaded captioner for images of another target.

        Only kinds with grids get other sizes than a captioner's own.
        """
        return captioner

    def check_typed(self, model: ModelConfig) -> None:  # noqa: ARG002
        """Make sure that the models of the kind can write JSON, as prompts with a type want it.

        Args:
            model: The backend.

        Raises:
            ModelError: they cannot, or need a package that is not installed.
        """
        raise ModelError(
            f"prompts with a JSON schema or choices need a vision-language model: models of kind "
            f"{self.name} write plain captions",
            setting="prompts",
        )

    def write_generation(self, folder: Path, generation: GenerationConfig) -> None:  # noqa: B027
        """Write generation settings in the format of transformers, if the kind keeps them there."""

    def batch_range(self, model: ModelConfig, *, on_accelerator: bool) -> BatchRange:  # noqa: ARG002
        """Return the batch sizes to choose from while a run goes on.

        The largest also bounds how many images travel together and how late captions come.
        """
        return BatchRange(least=16, most=128) if on_accelerator else BatchRange(least=4, most=16)


class TrainableKind(CaptionerKind):
    """A kind whose models raycap trains; its name is also a `Kind` of `config.train`."""

    default_lr: ClassVar[float]
    """Peak learning rate if `train.lr` is not set."""
    default_init: ClassVar[str | None] = None
    """Name of the model that training starts from if `init` is not set. None: random weights."""

    def build_trainable(self, config: TrainConfig, captions: Iterable[str]) -> Any:
        """Build a model with random weights, on the CPU. Returns a `trainable.Trainable`.

        Only for kinds without `default_init`.

        Raises:
            ConfigError: the settings need an extra that is not installed.
            ModelError: the model cannot be built from these captions.
        """
        raise NotImplementedError

    @abstractmethod
    def load_trainable(self, folder: Path, config: TrainConfig) -> Any:
        """Load a folder for training, on the CPU, in fp32. Returns a `trainable.Trainable`.

        Raises:
            ConfigError: the settings need an extra that is not installed.
            ModelError: the folder does not hold a complete model of this kind.
        """


def asked_generation(generation: GenerationConfig, question: Question) -> GenerationConfig:
    """Return the settings with which a question is answered."""
    update: dict[str, Any] = {"prompt": question.text}
    if question.max_new_tokens is not None:
        update["max_new_tokens"] = question.max_new_tokens
        update["min_new_tokens"] = min(generation.min_new_tokens, question.max_new_tokens)
    if question.seed is not None:
        update["sampling"] = generation.sampling.model_copy(update={"seed": question.seed})
    return generation.model_copy(update=update)


def image_seed(pixels: UInt8[np.ndarray, "h w 3"], seed: int) -> int:
    """Derive the seed for sampling an image's caption from its pixels and `sampling.seed`."""
    digest = hashlib.sha256(f"{seed}:".encode() + pixels.tobytes()).digest()
    return int.from_bytes(digest[:7])
