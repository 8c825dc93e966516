"""BLIP: a vision transformer whose patches a text decoder attends to while it writes.

Source: Li et al. 2022, arXiv:2201.12086; the captions are those of transformers'
`BlipForConditionalGeneration.generate`, token for token. What differs, and why:

- the folder's own generation settings are replaced, so that only raycap's settings decide;
- sampling goes image by image, from a seed of the image's pixels, so that the draws do not depend
  on the batch;
- pixels travel to the device as bytes and are normalised there;
- decoding is faster: see `blip_decoding`, and `blip_compiled` where `model.compile` is on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import AutoTokenizer, BlipForConditionalGeneration, PreTrainedTokenizerBase

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Caption
from raycap.models.blip.compiled import CompiledBlip, check_compiler
from raycap.models.blip.decoding import BlipDecodingState, encode_images
from raycap.models.blip.int8 import Int8Linear, check_int8, quantize
from raycap.models.blip.kind import BlipKind, check_blip_folder
from raycap.models.decoding import caption_with, decode
from raycap.models.decoding.state import Decoded
from raycap.models.device import own_stream, pick_device, pick_dtype, upload
from raycap.models.folders import KIND_FILE, PREPROCESSOR_FILE, Preprocessing, write_json
from raycap.models.weights import load_complete, load_errors, quiet

_Settings: Any = transformers.GenerationConfig  # untyped there


class BlipCaptioner:
    """Captions with any Hugging Face BLIP captioning model."""

    def __init__(
        self,
        model: Any,  # a BlipForConditionalGeneration; transformers' own types are partial
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
        generation: GenerationConfig,
        compiled: CompiledBlip | None = None,
    ) -> None:
        """Prepare to caption.

        Args:
            model: Is put into evaluation mode.
            tokenizer: Of its text.
            preprocessing: What its pixels are.
            generation: How captions are searched for.
            compiled: The model's arithmetic, compiled; None: as torch runs it.
        """
        self._model = model.eval()
        self._compiled = compiled
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._generation = generation
        self._prompt = self._start_tokens()
        # Those of the folder's own settings; saved with it.
        model.generation_config = transformers_settings(model.config.text_config, generation)
        self._mean = torch.tensor(preprocessing.mean, device=model.device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=model.device).view(3, 1, 1)

    @classmethod
    def from_pretrained(
        cls, folder: Path, model: ModelConfig, generation: GenerationConfig
    ) -> "BlipCaptioner":
        """Load a folder onto the accelerator, or the CPU where there is none.

        Args:
            folder: Hugging Face folder with safetensors; nothing is fetched, no code of it runs.
            model: The arithmetic.
            generation: How captions are searched for.

        Raises:
            ModelError: the folder is not a whole BLIP captioner, the prompt and
                `generation.max_new_tokens` are together longer than it can write, the processor
                cannot compute in 8 bits, where `model.precision` says so, or `model.compile` is on
                where nothing can be compiled.
        """
        preprocessing = check_blip_folder(folder)
        device = pick_device()
        if model.compile:
            check_compiler(device)
        if model.precision == "int8":
            check_int8(device)
            network, tokenizer = load_network(folder, torch.float32)
            quantize(network)
        else:
            network, tokenizer = load_network(folder, pick_dtype(model.precision, device))
        network.to(device)
        compiled = CompiledBlip(network) if model.compile else None
        return cls(network, tokenizer, preprocessing, generation, compiled)

    @property
    def target(self) -> Target:
        """The pixels it wants."""
        return self._preprocessing.target

    @torch.inference_mode()
    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; `alternatives` are sorted best first.

        The best is the one of the highest beam score (which knows `length_penalty`), or of the
        highest `logprob` where sampled.

        Raises:
            FloatingPointError: the model's numbers for one of the images are not finite.
        """
        with own_stream(self._model.device):
            return caption_with(
                self._decode, self._text, pixels, self._generation, self._model.device
            )

    def with_generation(self, generation: GenerationConfig) -> "BlipCaptioner":
        """Caption by other settings, with the same weights.

        Raises:
            ModelError: as of `from_pretrained`.
        """
        return BlipCaptioner(
            self._model, self._tokenizer, self._preprocessing, generation, self._compiled
        )

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count as `generation.max_new_tokens` does, the end token left out."""
        encoded = self._tokenizer(list(captions), add_special_tokens=False).input_ids
        return [len(tokens) for tokens in encoded]

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder, in the precision in use.

        Raises:
            ModelError: that is 8 bits, of which the weights cannot be had back.
        """
        if any(isinstance(module, Int8Linear) for module in self._model.modules()):
            raise ModelError("a model in 8 bits cannot be saved: set model.precision=auto")
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self._model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
        write_json(folder / PREPROCESSOR_FILE, self._preprocessing.to_json())
        write_json(folder / KIND_FILE, {"kind": BlipKind.name})

    def _start_tokens(self) -> Int[Tensor, "1 p"]:
        """What every caption continues: the decoder's start token, then the prompt."""
        text = self._model.config.text_config
        prompt = self._tokenizer(self._generation.prompt, add_special_tokens=False).input_ids
        # The last token is written but never read again.
        num_tokens = len(prompt) + self._generation.max_new_tokens
        if num_tokens > text.max_position_embeddings:
            raise ModelError(
                f"generation.max_new_tokens: with the prompt's {len(prompt)} tokens at most "
                f"{text.max_position_embeddings - len(prompt)} for this model: lower it"
            )
        return torch.tensor([[text.bos_token_id, *prompt]], device=self._model.device)

    def _decode(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[list[Decoded]]:
        normal = self._normalise(pixels)
        start = self._prompt.expand(len(pixels), -1)
        # The last token is written but never read.
        num_tokens = start.shape[1] + self._generation.max_new_tokens - 1
        end_token = self._model.config.text_config.sep_token_id
        if self._compiled is not None:
            num_rows = max(self._generation.num_beams, self._generation.num_captions)
            with self._compiled.read(normal, num_rows, num_tokens) as static:
                return decode(static, start, self._generation, end_token)
        images = encode_images(self._model.vision_model, normal)
        state = BlipDecodingState(self._model.text_decoder, images, num_tokens)
        return decode(state, start, self._generation, end_token)

    def _normalise(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        # Bytes are a quarter of floats to move; fp32 until the end, for bf16 cannot hold 0 to 255.
        on_device = upload(pixels, self._model.device).permute(0, 3, 1, 2)
        scaled = on_device.to(torch.float32) * self._preprocessing.rescale
        return ((scaled - self._mean) / self._std).to(self._model.dtype)

    def _text(self, tokens: list[int]) -> str:
        # Without the start token, which not every tokenizer knows to be special.
        written = [*self._prompt[0, 1:].tolist(), *tokens]
        return str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()


def load_network(folder: Path, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a BLIP captioning network onto the CPU, and its tokenizer.

    Args:
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.

    Raises:
        ModelError: files are broken or do not fit together.
    """
    with load_errors(folder, "BLIP"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return load_complete(BlipForConditionalGeneration, folder, dtype), tokenizer


def transformers_settings(text: Any, generation: GenerationConfig) -> Any:
    """Say all that decides a caption in transformers' words, in place of the folder's own."""
    settings: dict[str, Any] = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.sep_token_id,  # BLIP ends a caption with [SEP]
        "pad_token_id": text.pad_token_id,
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens or None,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": generation.sampling.enabled,
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if generation.sampling.enabled:
        settings |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
            # A draw from NaN is an assertion on the GPU, after which the process is lost. The
            # logprob, from the untouched logits, still says that the image failed.
            "remove_invalid_values": True,
        }
    return _Settings(**settings)
