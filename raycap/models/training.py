"""Models to train: built anew, or from weights that there are.

What a kind of model needs is imported where it is built: transformers' part of BLIP takes seconds,
which a driver, a controller of Ray Train and a model from scratch do without.
"""

from collections.abc import Iterable
from pathlib import Path

from raycap.config import DEFAULT_MODEL, TrainConfig
from raycap.errors import ConfigError
from raycap.models.sources import find_model
from raycap.models.trainable import Trainable


def build_trainable(config: TrainConfig, captions: Iterable[str]) -> Trainable:
    """Build the model that training begins with, on the CPU.

    Args:
        config: the settings; `init` names weights to begin with.
        captions: all of the training split: a model from scratch learns its tokens from them.

    Raises:
        ModelError: the weights cannot be found or loaded.
        ConfigError: the weights are of another kind than the settings ask for.
    """
    if config.init is None and config.kind != "blip":
        from raycap.models.scratch.training import build_scratch_trainable  # noqa: PLC0415

        return build_scratch_trainable(config, captions)
    source = find_model(config.init or DEFAULT_MODEL)
    if source.kind != config.kind or source.folder is None:
        raise ConfigError(
            f"init={config.init} is a model of kind {source.kind!r}, not {config.kind!r}: give "
            "the other's kind, or other weights"
        )
    return load_trainable(Path(source.folder), config)


def load_trainable(folder: Path, config: TrainConfig) -> Trainable:
    """Load a model that was saved, on the CPU.

    Raises:
        ModelError: the folder does not hold such a model.
    """
    if config.kind == "blip":
        from raycap.models.blip.training import load_blip_trainable  # noqa: PLC0415

        return load_blip_trainable(folder, config)
    from raycap.models.scratch.training import load_scratch_trainable  # noqa: PLC0415

    return load_scratch_trainable(folder, config)
