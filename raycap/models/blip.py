"""BLIP: a vision transformer whose patches a text decoder attends to while it writes.

Source: Li et al. 2022, arXiv:2201.12086; the decoding is that of transformers'
`BlipForConditionalGeneration.generate`, token for token. What differs, and why:

- the folder's own generation settings are replaced, so that only raycap's settings decide;
- sampling goes image by image, from a seed of the image's pixels, so that the draws do not depend
  on the batch;
- pixels travel to the device as bytes and are normalised there.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images import Target
from raycap.models.base import Caption
from raycap.models.device import pick_device, pick_dtype
from raycap.models.folders import (
    KIND_FILE,
    PREPROCESSOR_FILE,
    Preprocessing,
    check_folder,
    write_json,
)
from raycap.models.weights import load_network, quiet

_Settings: Any = transformers.GenerationConfig  # untyped there


class BlipCaptioner:
    """Captions with any Hugging Face BLIP captioning model."""

    def __init__(
        self,
        model: Any,  # a BlipForConditionalGeneration; transformers' own types are partial
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
        generation: GenerationConfig,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._generation = generation
        self._prompt = self._start_tokens()
        model.generation_config = _settings(model.config.text_config, generation)
        self._settings = _settings(model.config.text_config, generation)
        self._settings.update(return_dict_in_generate=True, output_logits=True)
        # generate() fills what it is not told from the decoder's settings: leave none there.
        model.text_decoder.generation_config = _Settings()
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
            ModelError: the folder is not a whole BLIP captioner, or the prompt and
                `generation.max_new_tokens` are together longer than it can write.
        """
        preprocessing = check_folder(folder)
        device = pick_device()
        network, tokenizer = load_network(folder, pick_dtype(model.precision, device))
        return cls(network.to(device), tokenizer, preprocessing, generation)

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
        if not len(pixels):
            return []
        if not self._generation.sampling.enabled:
            return self._generate(pixels)
        return [self._sample(image) for image in pixels]

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder, in the precision in use."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self._model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
        write_json(folder / PREPROCESSOR_FILE, self._preprocessing.to_json())
        write_json(folder / KIND_FILE, {"kind": "blip"})

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

    def _sample(self, image: UInt8[np.ndarray, "h w 3"]) -> Caption:
        seed = f"{self._generation.sampling.seed}:".encode()
        digest = hashlib.sha256(seed + image.tobytes()).digest()
        device = self._model.device
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type):
            torch.manual_seed(int.from_bytes(digest[:7]))
            found = self._generate(image[None])[0]
        drawn = [replace(found, alternatives=()), *found.alternatives]
        best, *rest = sorted(drawn, key=lambda caption: -caption.logprob)
        return replace(best, alternatives=tuple(rest))

    def _generate(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        embeddings = self._model.vision_model(self._normalise(pixels)).last_hidden_state
        start = self._prompt.expand(len(pixels), -1)
        output: Any = self._model.text_decoder.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=embeddings,
            encoder_attention_mask=embeddings.new_ones(embeddings.shape[:2], dtype=torch.long),
            generation_config=self._settings,
        )
        num_start = start.shape[1]
        logprobs, lengths = _mean_logprobs(
            output.sequences[:, num_start:],
            output.logits,
            output.get("beam_indices"),
            self._model.config.text_config.sep_token_id,
        )
        num_captions = self._generation.num_captions
        _check_finite(logprobs, num_captions)
        captions = [
            # without the start token, which not every tokenizer knows to be special
            Caption(text=self._text(tokens[1 : num_start + length]), logprob=logprob)
            for tokens, logprob, length in zip(
                output.sequences.tolist(), logprobs.tolist(), lengths.tolist(), strict=True
            )
        ]
        groups = [captions[at : at + num_captions] for at in range(0, len(captions), num_captions)]
        return [replace(group[0], alternatives=tuple(group[1:])) for group in groups]

    def _normalise(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        # Bytes are a quarter of floats to move; fp32 until the end, for bf16 cannot hold 0 to 255.
        on_device = torch.tensor(pixels, device=self._model.device).permute(0, 3, 1, 2)
        scaled = on_device.to(torch.float32) * self._preprocessing.rescale
        return ((scaled - self._mean) / self._std).to(self._model.dtype)

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _settings(text: Any, generation: GenerationConfig) -> Any:
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


def _mean_logprobs(
    tokens: Int[Tensor, "n t"],
    logits: tuple[Float[Tensor, "m v"], ...],
    beam_indices: Int[Tensor, "n t"] | None,
    end_token: int,
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Average the log-probabilities of generated tokens, the end token included.

    Args:
        tokens: The captions, without prompt; what follows the end token does not count.
        logits: Of every step, untouched by penalties, one row a beam in its order at that step.
        beam_indices: Row of `logits` that each token was chosen from, -1 after the end; None
            where rows stay with their captions.
        end_token: Ends a caption.

    Returns:
        Means, NaN where no caption was found; and the numbers of tokens.
    """
    total = torch.zeros(len(tokens), device=tokens.device)
    lengths = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    running = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    for step in range(tokens.shape[1]):
        rows = logits[step]
        if beam_indices is not None:
            # Not by the end token: beam search pads with it where the pad token is 0.
            running = beam_indices[:, step] >= 0
            rows = rows[beam_indices[:, step]]
        chosen = rows.log_softmax(-1).gather(1, tokens[:, step, None])[:, 0]
        total += torch.where(running, chosen, 0.0)
        lengths += running
        running = running & (tokens[:, step] != end_token)
    return total / lengths, lengths


def _check_finite(logprobs: Float[Tensor, " n"], num_captions: int) -> None:
    failed = (~torch.isfinite(logprobs)).nonzero()[:, 0].tolist()
    if failed:
        images = ", ".join(str(index) for index in sorted({at // num_captions for at in failed}))
        raise FloatingPointError(
            f"the model's numbers are not finite for image {images} of the batch"
        )
