"""Training of models from scratch."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from raycap.config import GenerationConfig, TrainConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.scratch.captioner import ScratchCaptioner, captioner_of
from raycap.models.scratch.model import ScratchModel, build_model, load_model
from raycap.models.scratch.tokenizer import END, PAD, START
from raycap.models.trainable import TokenBatch, batch_tokens

logger = logging.getLogger(__name__)


class ScratchTrainable:
    """A model of one of these kinds; a `Trainable`."""

    def __init__(self, model: ScratchModel, prompt: str) -> None:
        self._model = model
        self._start = [START, *model.tokenizer.encode([prompt])[0]]

    @property
    def kind(self) -> str:
        """`cnn-lstm`, `transformer` or `hybrid`."""
        return self._model.description.kind

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._model.description.preprocessing.target

    @property
    def network(self) -> nn.Module:
        """Maps pixels and tokens to logits; see `Trainable.network`."""
        return self._model.network

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        """Convert captions to tokens: `[START] prompt caption`, followed by `[END]`.

        The prompt has no loss, because captioning is given the prompt.
        """
        room = max(0, self._model.description.architecture.max_tokens - len(self._start))
        bodies = [tokens[:room] for tokens in self._model.tokenizer.encode(captions)]
        return batch_tokens(self._start, bodies, pad=PAD, end=END)

    def captioner(self, generation: GenerationConfig) -> ScratchCaptioner:
        """Return a captioner that shares the weights; puts the network into evaluation mode.

        That of a `hybrid` is an `AttentiveCaptioner`.
        """
        return captioner_of(self._model, generation)

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        """Write a folder as described in `kind`."""
        self._model.save(folder, generation, training)


def build_scratch_trainable(config: TrainConfig, captions: Iterable[str]) -> ScratchTrainable:
    """Build a model on the CPU; its tokens are learned from the captions.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: its ImageNet weights cannot be loaded, or there are no captions.
    """
    architecture = config.architecture
    model = build_model(config.kind, architecture, captions, config.train.seed)
    if not (architecture.pretrained or model.network.encoder.is_trained):
        logger.warning(
            "the encoder keeps its random weights: set architecture.train_encoder=true or "
            "architecture.pretrained=true"
        )
    return ScratchTrainable(model, config.generation.prompt)


def load_scratch_trainable(folder: Path, config: TrainConfig) -> ScratchTrainable:
    """Load a folder for training, on the CPU, in fp32.

    The architecture and tokens are those of the folder. Settings that change no weight come from
    the configuration: `train_encoder`, `dropout` and `max_tokens`.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: the folder does not hold a complete model of the kind in the settings.
    """
    model = load_model(folder, config.architecture)
    if model.description.kind != config.kind:
        raise ModelError(
            f"{folder}: a model of kind {model.description.kind!r}, not {config.kind!r}: set that "
            "kind, or give another folder",
            uri=str(folder),
        )
    return ScratchTrainable(model, config.generation.prompt)
