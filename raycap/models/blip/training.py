"""Training of BLIP: all weights, all but the vision tower, or low-rank updates (LoRA).

Source: Li et al. 2022, arXiv:2201.12086 (captioning loss); Hu et al. 2021, arXiv:2106.09685 (LoRA).
The loss equals that of transformers' `BlipForConditionalGeneration` on the same tokens, except that
the last position of a caption, which has no next token, is not computed.
"""

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoTokenizer, BlipForConditionalGeneration, PreTrainedTokenizerBase

from raycap.config import GenerationConfig, TrainConfig
from raycap.errors import ConfigError
from raycap.images.decoding import Target
from raycap.models.adapters import with_lora
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.kind import BlipKind, check_blip_folder, write_blip_generation
from raycap.models.blip.tokenizer import BlipTokenizer
from raycap.models.folders import KIND_FILE, PREPROCESSOR_FILE, Preprocessing, write_json
from raycap.models.pretrained import load_complete, loading, quiet
from raycap.models.trainable import TokenBatch, batch_tokens

_GenerationSettings: Any = transformers.GenerationConfig  # untyped there

_LORA_TARGETS = ["query", "key", "value", "qkv"]
"""Projections of the attention layers: of the text decoder, and of the vision tower (`qkv`)."""


class BlipNetwork(nn.Module):
    """Uint8 pixels and tokens in, logits out."""

    def __init__(self, blip: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.blip = blip  # a BlipForConditionalGeneration, or peft's model around one
        self._rescale = preprocessing.rescale
        self._mean: Tensor
        self._std: Tensor
        # Not part of the state: they are saved in the preprocessor's file.
        self.register_buffer("_mean", _channels(preprocessing.mean), persistent=False)
        self.register_buffer("_std", _channels(preprocessing.std), persistent=False)

    def forward(
        self,
        pixels: UInt8[Tensor, "b 3 h w"],
        inputs: Int[Tensor, "b t"],
        mask: Int[Tensor, "b t"],
    ) -> Float[Tensor, "b t v"]:
        """Predict the token that follows each position."""
        normal = (pixels.to(torch.float32) * self._rescale - self._mean) / self._std
        images = self.blip.vision_model(normal).last_hidden_state
        output = self.blip.text_decoder(
            input_ids=inputs,
            attention_mask=mask,
            encoder_hidden_states=images,
            encoder_attention_mask=mask.new_ones(images.shape[:2]),
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits


class BlipTrainable:
    """A BLIP with its tokenizer and preprocessing, ready to be trained."""

    kind = BlipKind.name

    def __init__(
        self,
        blip: Any,  # a BlipForConditionalGeneration; transformers' own types are partial
        tokenizers: tuple[BlipTokenizer, PreTrainedTokenizerBase],
        preprocessing: Preprocessing,
        config: TrainConfig,
    ) -> None:
        """Prepare to train.

        Args:
            blip: The network.
            tokenizers: Of its text; and the same as transformers has it, which is saved.
            preprocessing: Conversion of pixels to its input.
            config: The settings.
        """
        self._blip = blip
        self._tokenizer, self._saved_tokenizer = tokenizers
        self._preprocessing = preprocessing
        self._prompt = config.generation.prompt
        self._max_tokens = min(
            config.architecture.max_tokens, blip.config.text_config.max_position_embeddings
        )
        self._network = BlipNetwork(_prepared(blip, config), preprocessing)

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._preprocessing.target

    @property
    def network(self) -> nn.Module:
        """Maps pixels and tokens to logits; see `Trainable.network`."""
        return self._network

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        """Convert captions to tokens: `[DEC] prompt caption`, followed by `[SEP]`.

        The prompt has no loss, because captioning is given the prompt.
        """
        text = self._blip.config.text_config
        (prompt,) = self._tokenizer.encode([self._prompt])
        start = [text.bos_token_id, *prompt]
        room = max(0, self._max_tokens - len(start))
        bodies = [tokens[:room] for tokens in self._tokenizer.encode(captions)]
        return batch_tokens(start, bodies, pad=text.pad_token_id, end=text.sep_token_id)

    def captioner(self, generation: GenerationConfig) -> BlipCaptioner:
        """Return a captioner that shares the weights; puts the network into evaluation mode."""
        return BlipCaptioner(self._blip, self._tokenizer, self._preprocessing, generation)

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        """Write a Hugging Face folder of plain BLIP weights, with low-rank updates merged."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = _merged(self._network.blip, self._blip)
        with quiet():
            plain.save_pretrained(folder)
            self._saved_tokenizer.save_pretrained(folder)
        write_json(folder / PREPROCESSOR_FILE, self._preprocessing.to_json())
        write_blip_generation(folder, plain.config.text_config, generation)
        mark = {"kind": self.kind, "generation": generation.model_dump(mode="json")}
        write_json(folder / KIND_FILE, {**mark, "training": training})


def load_blip_trainable(folder: Path, config: TrainConfig) -> BlipTrainable:
    """Load a BLIP folder for training, on the CPU, in fp32.

    Raises:
        ModelError: the folder is not a complete BLIP captioner.
        ConfigError: the settings ask for LoRA and its package is not installed.
    """
    preprocessing = check_blip_folder(folder)
    with loading(folder, "BLIP"):
        blip = load_complete(BlipForConditionalGeneration, folder, torch.float32)
        load: Any = AutoTokenizer.from_pretrained  # untyped there
        saved = load(folder, local_files_only=True, trust_remote_code=False)
        tokenizers = BlipTokenizer.load(folder), saved
    # Without the folder's own settings: raycap's are written when the model is saved.
    blip.generation_config = _GenerationSettings()
    return BlipTrainable(blip, tokenizers, preprocessing, config)


def _channels(values: Sequence[float]) -> Float[Tensor, "1 c 1 1"]:
    return torch.tensor(values).view(1, -1, 1, 1)


def _prepared(blip: Any, config: TrainConfig) -> Any:
    """Freeze the parts of the model that are not trained, or add low-rank updates."""
    tuning = config.blip
    trained = blip
    if tuning.method == "lora":
        trained = _with_lora(blip, tuning.lora_rank)
    else:
        blip.requires_grad_(True)
        if tuning.method == "frozen-vision":
            blip.vision_model.requires_grad_(False)
    if tuning.gradient_checkpointing:
        # Not reentrant: that loses the gradient if the input has none, as after a frozen vision
        # tower. After LoRA, which would otherwise make the inputs require a gradient.
        blip.activation_checkpointing_enable({"use_reentrant": False})
    return trained


def _with_lora(blip: Any, rank: int) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "blip.method=lora needs the extra raycap[lora]: pip install 'raycap[lora]'",
            setting="blip.method",
        )
    from peft import LoraConfig  # noqa: PLC0415  an optional extra

    # Alpha is twice the rank, as is common: updates are then scaled equally at any rank.
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_LORA_TARGETS)
    return with_lora(blip, settings)


def _merged(trained: Any, blip: Any) -> Any:
    """Return plain BLIP: the model itself, or a copy with its low-rank updates merged."""
    if trained is blip:
        return blip
    return copy.deepcopy(trained).merge_and_unload()
