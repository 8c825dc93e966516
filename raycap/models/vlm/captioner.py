"""Captioning with vision-language models: those of transformers' `AutoModelForImageTextToText`.

Florence-2, SmolVLM, Qwen-VL, LLaVA, BLIP-2 and others differ in how they read an image and a
prompt. Therefore their own processor makes the input, and transformers' `generate` writes the
captions. raycap adds:

- its generation settings replace those of the folder, except special tokens;
- every caption has the mean log-probability of its tokens, from the same pass;
- images are sampled one by one, with a seed from their pixels, as in `decoding`.
"""

from collections import defaultdict
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
from raycap.models.base import Caption, Question, Questions, asked_generation
from raycap.models.decoding import caption_with
from raycap.models.decoding.state import Decoded
from raycap.models.device import pick_device, pick_dtype
from raycap.models.generation import search_settings
from raycap.models.pretrained import load_complete, loading
from raycap.models.vlm.constrained import JsonGrammars
from raycap.models.vlm.kind import check_vlm_folder, processor_settings

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
    """Return the module whose `generate` runs the search, with its own special tokens.

    It is the model itself, unless the model passes its input to a language model, as BLIP-2 does.
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
    """Return the special tokens of a module's generation settings, and remove all other settings.

    Those (sampling, penalties, lengths) would apply wherever raycap leaves a setting unset.
    """
    own = module.generation_config
    tokens = {name: getattr(own, name, None) for name in _SPECIAL_TOKENS}
    if tokens["pad_token_id"] is None and tokens["eos_token_id"] is not None:
        tokens["pad_token_id"] = _ids(tokens["eos_token_id"])[0]
    tokens = {name: value for name, value in tokens.items() if value is not None}
    module.generation_config = _Settings(**tokens)
    return tokens


def generation_settings(tokens: dict[str, Any], generation: GenerationConfig) -> Any:
    """Return the complete generation settings in the format of transformers.

    Args:
        tokens: From `special_tokens`.
        generation: How captions are generated.
    """
    settings: dict[str, Any] = {
        **tokens,
        **search_settings(generation),
        "return_dict_in_generate": True,
        "output_logits": True,  # kept of every step until the end, in fp32
    }
    return _Settings(**settings)


def read_generated(
    generated: Any, tokens: dict[str, Any], num_captions: int
) -> list[list[Decoded]]:
    """Convert the output of `generate` to captions with their log-probabilities.

    A first token that the model's settings force is left out of the mean: it was not chosen.

    Args:
        generated: With `output_logits`, from greedy search, beam search or sampling.
        tokens: From `special_tokens`.
        num_captions: Captions per image.

    Returns:
        Captions per image, in the order of `generate`: the best first for a beam search. They are
        ranked already, so their score is just the `logprob`.
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
    """Return the log-probability of each token in the row that it was chosen from."""
    chosen = [
        of_step[rows[:, step]].log_softmax(-1).gather(1, written[:, step : step + 1])
        for step, of_step in enumerate(logits[: written.shape[1]])
    ]
    return torch.cat(chosen, 1)


def _lengths(written: Int[Tensor, "n t"], ends: list[int]) -> Int[Tensor, " n"]:
    """Count the tokens of each caption, including the first end token."""
    is_end = torch.isin(written, torch.tensor(ends, device=written.device))
    before = (is_end.cumsum(1) == 0).sum(1)
    return (before + 1).clamp(max=written.shape[1])


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


INSTRUCTION = "Describe this image in one sentence."
"""The prompt for a model with a chat template if `generation.prompt` is empty."""

TASK = "<CAPTION>"
"""The same for Florence-2, whose prompts are tasks."""


class VlmCaptioner:
    """Captions images with any vision-language model of transformers."""

    def __init__(
        self, model: Any, processor: Any, target: Target, generation: GenerationConfig
    ) -> None:
        """Prepare to caption.

        Args:
            model: The network; put into evaluation mode. Of its generation settings only special
                tokens are kept.
            processor: Makes the model's input.
            target: Size of the input images.
            generation: How captions are generated.

        Raises:
            ModelError: the processor does not accept the prompt.
        """
        self._model = model.eval()
        self._processor = processor
        self._target = target
        self._generation = generation
        self._prompt = _prompt_for(processor, generation.prompt)
        self._images = processor_settings(target)
        self._tokens = special_tokens(generating_module(model))
        ends = _ids(self._tokens.get("eos_token_id"))
        self._grammars = JsonGrammars(processor.tokenizer, ends)
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
        assert model.precision != "int8"  # checked by sources.check_arithmetic
        assert model.precision != "fast"  # decided by load.load_captioner
        target = check_vlm_folder(folder)
        device = pick_device()
        dtype = pick_dtype(model.precision, device)
        network, processor = load_vlm(folder, dtype, model.adapter)
        return cls(network.to(device), processor, target, generation)

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._target

    @torch.inference_mode()
    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; `alternatives` are sorted best first.

        The text is the model's answer on one line, without the prompt, which is a question or task.

        Raises:
            FloatingPointError: the scores of an image are not finite.
        """
        return self._search(pixels, [self._prompt] * len(pixels), self._generation)

    @torch.inference_mode()
    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        """Answer the questions about each image.

        Raises:
            FloatingPointError: the scores of an image are not finite.
        """
        by_prompt = [self._ask(pixels, asked) for asked in zip(*questions, strict=True)]
        return [list(answers) for answers in zip(*by_prompt, strict=True)]

    def with_generation(self, generation: GenerationConfig) -> "VlmCaptioner":
        """Return a captioner with other settings that shares the weights.

        Raises:
            ModelError: the processor does not accept the prompt.
        """
        return VlmCaptioner(self._model, self._processor, self._target, generation)

    def with_target(self, target: Target) -> "VlmCaptioner":
        """Return a captioner for images of another size that shares the weights.

        Raises:
            ModelError: the processor does not accept images of that size.
        """
        if target == self._target:
            return self
        return VlmCaptioner(self._model, self._processor, target, self._generation)

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count tokens as `generation.max_new_tokens` does, without the end token."""
        encoded = self._processor.tokenizer(list(captions), add_special_tokens=False).input_ids
        return [len(tokens) for tokens in encoded]

    def _ask(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Sequence[Question]
    ) -> list[Caption]:
        """Answer one question about each image; texts of equal length share a batch.

        So nothing is padded, and no answer depends on its neighbours.
        """
        prompts = [_prompt_for(self._processor, question.text) for question in questions]
        asked = [asked_generation(self._generation, question) for question in questions]
        distinct = list(dict.fromkeys(prompts))
        written = [written_prompt(self._processor, prompt) for prompt in distinct]
        lengths = dict(zip(distinct, self.count_tokens(written), strict=True))
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, (prompt, generation) in enumerate(zip(prompts, asked, strict=True)):
            seed, json_schema = generation.sampling.seed, questions[place].json_schema
            key = lengths[prompt], generation.max_new_tokens, seed, json_schema
            groups[key].append(place)
        found: dict[int, Caption] = {}
        for places in groups.values():
            texts = [prompts[place] for place in places]
            json_schema = questions[places[0]].json_schema
            captions = self._search(pixels[places], texts, asked[places[0]], json_schema)
            found.update(zip(places, captions, strict=True))
        return [found[place] for place in range(len(questions))]

    def _search(
        self,
        pixels: UInt8[np.ndarray, "b h w 3"],
        prompts: list[str],
        generation: GenerationConfig,
        json_schema: str | None = None,
    ) -> list[Caption]:
        settings = generation_settings(self._tokens, generation)

        def decode_batch(some: slice) -> list[list[Decoded]]:
            inputs = self._inputs(pixels[some], prompts[some])
            on_device = inputs.to(self._model.device, self._model.dtype)
            generated = self._model.generate(
                **on_device, generation_config=settings, **self._constraint(json_schema)
            )
            return read_generated(generated, self._tokens, generation.num_captions)

        return caption_with(
            decode_batch,
            lambda _, tokens: self._text(tokens),
            pixels,
            generation,
            self._model.device,
            _ids(self._tokens.get("eos_token_id")),
        )

    def _constraint(self, json_schema: str | None) -> dict[str, Any]:
        """Return the arguments by which an answer follows a schema; one call of `generate` each."""
        if json_schema is None:
            return {}
        return {"logits_processor": [self._grammars.following(json_schema)]}

    def _inputs(self, pixels: UInt8[np.ndarray, "b h w 3"], prompts: list[str]) -> Any:
        images = [Image.fromarray(image) for image in pixels]
        if self._processor.chat_template is None:
            text = {"text": prompts} if any(prompts) else {}
            # One list per image: some processors take a flat list as the images of one text.
            of_texts = [[image] for image in images]
            return self._processor(
                images=of_texts, images_kwargs=self._images, return_tensors="pt", **text
            )
        return self._processor.apply_chat_template(
            [_conversation(*one) for one in zip(images, prompts, strict=True)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"images_kwargs": self._images},
        )

    def _check_prompt(self) -> None:
        """Try the prompt on grey images: later, an error would look like bad images."""
        size = (2, self._target.height_px, self._target.width_px, 3)
        try:
            inputs = self._inputs(np.full(size, 128, np.uint8), [self._prompt] * 2)
        except Exception as error:  # processors and templates raise anything
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the model's processor does not accept generation.prompt={self._prompt!r} "
                f"({type(error).__name__}: {reason}): use the prompt that the model's page shows",
                setting="generation.prompt",
            ) from error
        mark = getattr(self._processor, "image_token", None)
        writes_alone = generating_module(self._model) is self._model
        if "input_ids" not in inputs and mark is not None and writes_alone:
            raise ModelError(
                "the model has no chat template: set generation.prompt to the prompt that its page "
                f"shows, with {mark} at the place of the image",
                setting="generation.prompt",
            )

    def _text(self, tokens: list[int]) -> str:
        text = self._processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())


def load_vlm(folder: Path, dtype: torch.dtype, adapter: str | None = None) -> tuple[Any, Any]:
    """Load a vision-language model onto the CPU, and its processor.

    Args:
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.
        adapter: Folder of a LoRA adapter to merge into them.

    Raises:
        ModelError: files are broken or do not fit together, the model needs code of its own folder,
            or a package that it needs is not installed.
    """
    with loading(folder, _WHAT):
        network = load_complete(AutoModelForImageTextToText, folder, dtype, adapter)
        return network, _processor(folder)


def load_processor(folder: Path) -> Any:
    """Load only the processor of a vision-language model.

    Raises:
        ModelError: as `load_vlm`.
    """
    with loading(folder, _WHAT):
        return _processor(folder)


def _processor(folder: Path) -> Any:
    load: Any = AutoProcessor.from_pretrained
    processor = load(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError("it has no processor of images and text")
    return processor


def written_prompt(processor: Any, prompt: str) -> str:
    """Return the prompt as the model reads it, with its placeholder for the image.

    Args:
        processor: Of the model.
        prompt: The setting `generation.prompt`.
    """
    asked = _prompt_for(processor, prompt)
    if processor.chat_template is None:
        return asked
    content = [{"type": "image"}, {"type": "text", "text": asked}]
    messages = [{"role": "user", "content": content}]
    written: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    return written


def _prompt_for(processor: Any, prompt: str) -> str:
    """Return the prompt; if it is empty, the usual one for this kind of processor."""
    if prompt:
        return prompt
    if TASK in getattr(processor, "task_prompts_without_inputs", {}):
        return TASK
    return INSTRUCTION if processor.chat_template is not None else ""


def _conversation(image: Image.Image, prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]
