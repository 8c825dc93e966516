"""Vision-language models: all that transformers loads as `AutoModelForImageTextToText`.

Florence-2, SmolVLM, Qwen-VL, LLaVA, BLIP-2 and others differ in how they read an image and a
prompt. So nothing of them is rebuilt here: their own processor makes the input, and transformers'
`generate` writes the captions. What raycap adds:

- the folder's own generation settings are replaced, but for its special tokens, so that only
  raycap's settings decide;
- every caption has the mean log-probability of its tokens, from the same pass;
- sampling goes image by image, from a seed of the image's pixels, as of `decoding`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images import Target
from raycap.models.base import Caption
from raycap.models.decoding import caption_with
from raycap.models.decoding_state import Decoded
from raycap.models.device import pick_device, pick_dtype
from raycap.models.folders import KIND_FILE, VLM, write_json
from raycap.models.vlm_folders import check_vlm_folder
from raycap.models.vlm_generation import (
    generating_module,
    generation_settings,
    read_generated,
    special_tokens,
)
from raycap.models.weights import load_vlm, quiet

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
        write_json(folder / KIND_FILE, {"kind": VLM})

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
