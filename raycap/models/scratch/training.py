"""Captioners trained from scratch, as they are trained."""

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
    """A model of one of the kinds; a `Trainable`."""

    def __init__(self, model: ScratchModel, prompt: str) -> None:
        self._model = model
        self._start = [START, *model.tokenizer.encode([prompt])[0]]

    @property
    def kind(self) -> str:
        """`cnn-lstm`, `transformer` or `hybrid`."""
        return self._model.description.kind

    @property
    def target(self) -> Target:
        """The pixels it wants."""
        return self._model.description.preprocessing.target

    @property
    def network(self) -> nn.Module:
        """Maps pixels and tokens to logits; see `Trainable.network`."""
        return self._model.network

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        """Turn captions into tokens: `[START] prompt caption`, to be followed by `[END]`.

        The prompt carries no loss: at work it is given.
        """
        room = max(0, self._model.description.architecture.max_tokens - len(self._start))
        bodies = [tokens[:room] for tokens in self._model.tokenizer.encode(captions)]
        return batch_tokens(self._start, bodies, pad=PAD, end=END)

    def captioner(self, generation: GenerationConfig) -> ScratchCaptioner:
        """Caption with the weights as they are now.

        Puts the network into evaluation mode, as captioning needs it. That of a `hybrid` is an
        `AttentiveCaptioner`.
        """
        return captioner_of(self._model, generation)

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        """Write the folder that `scratch_folders` describes."""
        self._model.save(folder, generation, training)


def build_scratch_trainable(config: TrainConfig, captions: Iterable[str]) -> ScratchTrainable:
    """Build a model, on the CPU; its tokens are learned from the captions.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: its ImageNet weights cannot be loaded, or there are no captions.
    """
    architecture = config.architecture
    model = build_model(config.kind, architecture, captions, config.train.seed)
    if not (architecture.pretrained or model.network.encoder.is_trained):
        logger.warning(
            "the encoder stays as random as it is: set architecture.train_encoder=true, or "
            "architecture.pretrained=true"
        )
    return ScratchTrainable(model, config.generation.prompt)


def load_scratch_trainable(folder: Path, config: TrainConfig) -> ScratchTrainable:
    """Load a folder for training, on the CPU, in fp32.

    Its own architecture and tokens stay; of the settings those count that change no weight:
    `train_encoder`, `dropout` and `max_tokens`.

    Raises:
        ConfigError: the encoder needs an extra that is not installed.
        ModelError: the folder does not hold a whole model of the kind.
    """
    model = load_model(folder, config.architecture)
    if model.description.kind != config.kind:
        raise ModelError(
            f"{folder}: a model of kind {model.description.kind!r}, not {config.kind!r}: give the "
            "other's kind, or another folder"
        )
    return ScratchTrainable(model, config.generation.prompt)
