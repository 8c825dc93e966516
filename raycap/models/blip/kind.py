"""The BLIP kind: which folders hold a BLIP captioner, and how it is loaded and trained.

torch takes seconds to import, so it is imported only to load a model.
"""

from pathlib import Path
from typing import Any

from raycap.config import DEFAULT_MODEL, GenerationConfig, ModelConfig, TrainConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Captioner, TrainableKind
from raycap.models.blip.config import read_blip_config
from raycap.models.folders import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    Preprocessing,
    check_companions,
    check_weights,
    read_json,
    read_preprocessing,
)
from raycap.models.generation import write_generation

VOCABULARY_FILE = "vocab.txt"


class BlipKind(TrainableKind):
    """BLIP models of transformers (`BlipForConditionalGeneration`)."""

    name = "blip"
    compiles = True
    takes_adapters = True
    takes_questions = True
    has_int8 = True
    default_lr = 1e-5
    default_init = DEFAULT_MODEL

    def check(self, folder: Path) -> Target:
        """Check a folder; see `check_blip_folder`."""
        return check_blip_folder(folder).target

    def load(
        self, folder: Path | None, model: ModelConfig, generation: GenerationConfig
    ) -> Captioner:
        """Load a folder; see `BlipCaptioner.from_pretrained`."""
        from raycap.models.blip.captioner import BlipCaptioner  # noqa: PLC0415

        assert folder is not None
        return BlipCaptioner.from_pretrained(folder, model, generation)

    def write_generation(self, folder: Path, generation: GenerationConfig) -> None:
        """Write `generation_config.json`."""
        write_blip_generation(folder, read_blip_config(folder).text_config, generation)

    def load_trainable(self, folder: Path, config: TrainConfig) -> Any:
        """Load a folder for training; see `load_blip_trainable`."""
        from raycap.models.blip.training import load_blip_trainable  # noqa: PLC0415

        return load_blip_trainable(folder, config)


def write_blip_generation(folder: Path, text: Any, generation: GenerationConfig) -> None:
    """Write `generation_config.json`.

    Args:
        folder: Of the model.
        text: Settings of its text decoder: a `TextConfig`, or those of transformers.
        generation: How captions are generated.
    """
    write_generation(
        folder, generation, pad=text.pad_token_id, start=text.bos_token_id, end=text.sep_token_id
    )


def check_blip_folder(folder: Path) -> Preprocessing:
    """Check that a folder holds a complete BLIP captioner, and return its preprocessing.

    Raises:
        ModelError: a file is missing or of another kind of model, or files contradict each other.
    """
    config = read_json(folder / CONFIG_FILE)
    _check_architecture(folder, config)
    check_weights(folder)
    check_companions(folder, (TOKENIZER_FILE, VOCABULARY_FILE))
    preprocessing = read_preprocessing(folder)
    side_px = read_blip_config(folder).vision_config.image_size
    expected = (side_px, side_px)
    found = (preprocessing.target.height_px, preprocessing.target.width_px)
    if found != expected:
        raise ModelError(
            f"{folder}: the preprocessor makes {found[0]}x{found[1]} pixels, but the weights are "
            f"for {expected[0]}x{expected[1]} (vision_config.image_size): make the two files agree",
            uri=str(folder),
        )
    return preprocessing


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type != BlipKind.name:
        raise ModelError(
            f"{folder}: a model of kind {model_type!r}, not 'blip': choose another folder",
            uri=str(folder),
        )
    # BLIP for questions or retrieval has the same model_type, loads, and writes nonsense captions.
    architectures = config.get("architectures") or ["BlipForConditionalGeneration"]
    if "BlipForConditionalGeneration" not in architectures:
        raise ModelError(
            f"{folder}: holds {', '.join(map(str, architectures))}, which does not caption: "
            "choose a BlipForConditionalGeneration model",
            uri=str(folder),
        )
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        raise ModelError(
            f"{folder}: its weights are quantised ({quantization.get('quant_method')}), which "
            "raycap does not run: choose the original model, and model.precision for fewer bits",
            uri=str(folder),
        )
