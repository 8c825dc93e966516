"""Vision-language models: all that transformers loads as `AutoModelForImageTextToText`.

Florence-2, SmolVLM, Qwen-VL, LLaVA, BLIP-2 and others differ in how they read an image and a
prompt. So nothing of them is rebuilt here: their own processor makes the input, and transformers'
`generate` writes the captions. What raycap adds:

- the folder's own generation settings are replaced, but for its special tokens, so that only
  raycap's settings decide;
- every caption has the mean log-probability of its tokens, from the same pass;
- sampling goes image by image, from a seed of the image's pixels, as of `decoding`.

What transformers' `generate` is told, and what is read of its answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationMixin,
    ProcessorMixin,
)

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Caption
from raycap.models.decoding import caption_with
from raycap.models.decoding.state import Decoded
from raycap.models.device import pick_device, pick_dtype
from raycap.models.folders import KIND_FILE, write_json
from raycap.models.vlm.kind import VlmKind, check_vlm_folder
from raycap.models.weights import load_complete, load_errors, quiet

_Settings: Any = transformers.GenerationConfig  # untyped there
_WHAT = "a vision-language model"

_SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)

# N = captions, T = generated tokens, V = vocabulary


def generating_module(model: Any) -> Any:
    """Find the module whose `generate` runs the search, by its own special tokens.

    That is the model itself, unless it hands its input on to a language model, as BLIP-2 does.
    """
    if type(model).generate is GenerationMixin.generate:
        return model
    inner = [
        module
        for module in model.modules()
        if isinstance(module, GenerationMixin) and module is not model
    ]
    return inner[-1] if inner else model


def special_tokens(module: Any) -> dict[str, Any]:
    """Read the tokens that a module's own generation settings name, and drop all else of them.

    What else is there (sampling, penalties, lengths) would fill in what raycap leaves unset.
    """
    own = module.generation_config
    tokens = {name: getattr(own, name, None) for name in _SPECIAL_TOKENS}
    if tokens["pad_token_id"] is None and tokens["eos_token_id"] is not None:
        tokens["pad_token_id"] = _ids(tokens["eos_token_id"])[0]
    tokens = {name: value for name, value in tokens.items() if value is not None}
    module.generation_config = _Settings(**tokens)
    return tokens


def generation_settings(tokens: dict[str, Any], generation: GenerationConfig) -> Any:
    """Say all that decides a caption in transformers' words.

    Args:
        tokens: As of `special_tokens`.
        generation: How captions are searched for.
    """
    settings: dict[str, Any] = {
        **tokens,
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens or None,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_captions,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "do_sample": generation.sampling.enabled,
        "return_dict_in_generate": True,
        "output_logits": True,  # of every step until the last one, in fp32
    }
    if generation.num_beams > 1:
        settings |= {"length_penalty": generation.length_penalty, "early_stopping": False}
    if generation.sampling.enabled:
        settings |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
            "remove_invalid_values": True,  # as of `blip`
        }
    return _Settings(**settings)


def read_generated(
    generated: Any, tokens: dict[str, Any], num_captions: int
) -> list[list[Decoded]]:
    """Read what `generate` wrote, with the log-probability of each caption.

    A first token that the model's settings force on it counts in no mean: it was not chosen.

    Args:
        generated: With `output_logits`, of greedy search, beams or draws.
        tokens: As of `special_tokens`.
        num_captions: Captions an image.

    Returns:
        Captions for each image, in the order of `generate`: of beams the best first. It has ranked
        them, so that the score is only the `logprob`.
    """
    beams = getattr(generated, "beam_indices", None)
    num_steps = len(generated.logits) if beams is None else beams.shape[1]
    written = generated.sequences[:, generated.sequences.shape[1] - num_steps :]
    if beams is None:
        rows = torch.arange(len(written), device=written.device)[:, None].expand_as(written)
        lengths = _lengths(written, _ids(tokens.get("eos_token_id")))
    else:
        rows = beams.clamp(min=0).to(written.device, torch.long)
        lengths = (beams >= 0).sum(1).to(written.device)
    logprobs = _logprobs(generated.logits, written, rows)
    places = torch.arange(num_steps, device=written.device)
    first = 1 if tokens.get("forced_bos_token_id") is not None else 0
    counts = (places < lengths[:, None]) & (places >= first)
    means = torch.where(counts, logprobs, 0.0).sum(1) / counts.sum(1).clamp(min=1)
    found = [
        Decoded(tokens=row[:length], logprob=mean, score=mean)
        for row, length, mean in zip(
            written.tolist(), lengths.tolist(), means.tolist(), strict=True
        )
    ]
    return [found[at : at + num_captions] for at in range(0, len(found), num_captions)]


def _logprobs(
    logits: tuple[Tensor, ...], written: Int[Tensor, "n t"], rows: Int[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """Look up each token in the logits of the row that it was chosen from, step by step."""
    chosen = [
        of_step[rows[:, step]].log_softmax(-1).gather(1, written[:, step : step + 1])
        for step, of_step in enumerate(logits[: written.shape[1]])
    ]
    return torch.cat(chosen, 1)


def _lengths(written: Int[Tensor, "n t"], ends: list[int]) -> Int[Tensor, " n"]:
    """Count the tokens of each caption, the first end token among them."""
    is_end = torch.isin(written, torch.tensor(ends, device=written.device))
    before = (is_end.cumsum(1) == 0).sum(1)
    return (before + 1).clamp(max=written.shape[1])


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


INSTRUCTION = "Describe this image in one sentence."
"""What a model with a chat template is asked where `generation.prompt` is empty."""

TASK = "<CAPTION>"
"""What Florence-2, whose prompts are tasks, is asked then."""


class VlmCaptioner:
    """Captions with any vision-language model of transformers."""

    def __init__(
        self, model: Any, processor: Any, target: Target, generation: GenerationConfig
    ) -> None:
        """Prepare to caption.

        Args:
            model: Is put into evaluation mode, and keeps of its generation settings only its
                special tokens.
            processor: Makes the model's input.
            target: The size of the images that it is given.
            generation: How captions are searched for.

        Raises:
            ModelError: the processor does not take the prompt.
        """
        self._model = model.eval()
        self._processor = processor
        self._target = target
        self._generation = generation
        self._prompt = _prompt_for(processor, generation.prompt)
        self._tokens = special_tokens(generating_module(model))
        self._settings = generation_settings(self._tokens, generation)
        self._check_prompt()

    @classmethod
    def from_pretrained(
        cls, folder: Path, model: ModelConfig, generation: GenerationConfig
    ) -> "VlmCaptioner":
        """Load a folder onto the accelerator, or the CPU where there is none.

        Args:
            folder: Hugging Face folder with safetensors; nothing is fetched, no code of it runs.
            model: The arithmetic.
            generation: How captions are searched for.

        Raises:
            ModelError: the folder is not a whole model that transformers knows, a package that it
                needs is not installed, or its processor does not take the prompt.
        """
        assert model.precision != "int8"  # as of sources.check_arithmetic
        target = check_vlm_folder(folder)
        device = pick_device()
        network, processor = load_vlm(folder, pick_dtype(model.precision, device))
        return cls(network.to(device), processor, target, generation)

    @property
    def target(self) -> Target:
        """The pixels it wants."""
        return self._target

    @torch.inference_mode()
    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; `alternatives` are sorted best first.

        The text is the model's answer alone, on one line: the prompt is a question or a task.

        Raises:
            FloatingPointError: the model's numbers for one of the images are not finite.
        """
        return caption_with(self._decode, self._text, pixels, self._generation, self._model.device)

    def with_generation(self, generation: GenerationConfig) -> "VlmCaptioner":
        """Caption by other settings, with the same weights.

        Raises:
            ModelError: the processor does not take the prompt.
        """
        return VlmCaptioner(self._model, self._processor, self._target, generation)

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count as `generation.max_new_tokens` does, the end token left out."""
        encoded = self._processor.tokenizer(list(captions), add_special_tokens=False).input_ids
        return [len(tokens) for tokens in encoded]

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder, in the precision in use."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self._model.save_pretrained(folder)
            self._processor.save_pretrained(folder)
        write_json(folder / KIND_FILE, {"kind": VlmKind.name})

    def _decode(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[list[Decoded]]:
        inputs = self._inputs(pixels).to(self._model.device, self._model.dtype)
        generated = self._model.generate(**inputs, generation_config=self._settings)
        return read_generated(generated, self._tokens, self._generation.num_captions)

    def _inputs(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Any:
        images = [Image.fromarray(image) for image in pixels]
        if self._processor.chat_template is None:
            text = {"text": [self._prompt] * len(images)} if self._prompt else {}
            # A list an image: some processors take a flat one for the images of one text.
            of_texts = [[image] for image in images]
            return self._processor(images=of_texts, return_tensors="pt", **text)
        return self._processor.apply_chat_template(
            [_conversation(image, self._prompt) for image in images],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _check_prompt(self) -> None:
        """Try the prompt on grey images: later it would seem to be the images' fault."""
        size = (2, self._target.height_px, self._target.width_px, 3)
        try:
            inputs = self._inputs(np.full(size, 128, np.uint8))
        except Exception as error:  # whatever a processor or a template raises
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the model's processor does not take generation.prompt={self._prompt!r} "
                f"({type(error).__name__}: {reason}): give the prompt that the model's page shows"
            ) from error
        mark = getattr(self._processor, "image_token", None)
        writes_alone = generating_module(self._model) is self._model
        if "input_ids" not in inputs and mark is not None and writes_alone:
            raise ModelError(
                f"the model has no chat template: set generation.prompt to what its page shows, "
                f"with {mark} where the image goes"
            )

    def _text(self, tokens: list[int]) -> str:
        text = self._processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())


def load_vlm(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a vision-language model onto the CPU, and its processor.

    Args:
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.

    Raises:
        ModelError: files are broken or do not fit together, the model needs code of its own folder,
            or a package that it needs is not installed.
    """
    with load_errors(folder, _WHAT):
        processor = _processor(folder)
        return load_complete(AutoModelForImageTextToText, folder, dtype), processor


def load_processor(folder: Path) -> Any:
    """Load only the processor of a vision-language model.

    Raises:
        ModelError: as `load_vlm`.
    """
    with load_errors(folder, _WHAT):
        return _processor(folder)


def _processor(folder: Path) -> Any:
    load: Any = AutoProcessor.from_pretrained
    processor = load(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError("it has no processor of images and text")
    return processor


def written_prompt(processor: Any, prompt: str) -> str:
    """Write the prompt as the model reads it, with its mark where the image goes.

    Args:
        processor: Of the model.
        prompt: As of `generation.prompt`.
    """
    asked = _prompt_for(processor, prompt)
    if processor.chat_template is None:
        return asked
    content = [{"type": "image"}, {"type": "text", "text": asked}]
    messages = [{"role": "user", "content": content}]
    written: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    return written


def _prompt_for(processor: Any, prompt: str) -> str:
    """Give the prompt, or where it is empty what asks such a model for a caption."""
    if prompt:
        return prompt
    if TASK in getattr(processor, "task_prompts_without_inputs", {}):
        return TASK
    return INSTRUCTION if processor.chat_template is not None else ""


def _conversation(image: Image.Image, prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]
