"""What vLLM is told of a model and an image, and what is read of its answer. It is not imported.

A vision-language model captions here as it does in `vlm`: the same images, the same prompt, greedy
or from seeds of the images' own pixels. vLLM puts requests together as they come, so that an
image's arithmetic, and with it a near tie, may differ with what runs beside it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.models.base import Caption, ModelSource, image_seed
from raycap.models.folders import GENERATION_FILE, read_json
from raycap.models.kinds import KINDS, find_kind

_DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_OWN_ARGS = {
    "model": "model.name",
    "dtype": "model.precision",
    "tensor_parallel_size": "engine.gpus_per_actor",
    "load_format": None,
    "trust_remote_code": None,
    "task_type": None,
}
"""Arguments that raycap gives, and the settings that decide them."""


def check_backend(source: ModelSource, model: ModelConfig, generation: GenerationConfig) -> None:
    """Make sure that vLLM, where it is asked for, can do what the settings say.

    Raises:
        ConfigError: vLLM knows no such search, or an argument is not the user's to give.
        ModelError: the model is no vision-language model, or vLLM is not installed.
    """
    if model.backend != "vllm":
        return
    if not find_kind(source.kind).runs_on_vllm:
        able = ", ".join(kind.name for kind in KINDS if kind.runs_on_vllm)
        raise ModelError(
            f"backend=vllm supports models of kind {able}; {source.name} is of kind {source.kind}: "
            "leave it out"
        )
    _check_search(generation)
    for name in model.vllm_args.keys() & _OWN_ARGS.keys():
        remedy = f"set {_OWN_ARGS[name]}" if _OWN_ARGS[name] else "leave it out"
        raise ConfigError(f"vllm_args.{name}: raycap decides it: {remedy}")
    if find_spec("vllm") is None:
        raise ModelError(
            "backend=vllm needs vLLM, which is not installed: pip install 'raycap[vllm]' into an "
            "environment of its own, on every node; it needs another torch than raycap is tested "
            "with"
        )


def refuse_vllm(model: ModelConfig, what: str) -> None:
    """Make sure that raycap's own captioners are asked for.

    Args:
        model: The settings.
        what: What has no other.

    Raises:
        ConfigError: vLLM is asked for.
    """
    if model.backend != "torch":
        raise ConfigError(f"model.backend=vllm: {what} runs raycap's own captioners: leave it out")


def _check_search(generation: GenerationConfig) -> None:
    wrong = {
        "num_beams": (generation.num_beams > 1, "1", "no beam search"),
        "num_captions": (generation.num_captions > 1, "1", "one caption an image"),
        "no_repeat_ngram_size": (generation.no_repeat_ngram_size > 0, "0", "no such penalty"),
    }
    for name, (is_wrong, value, reason) in wrong.items():
        if is_wrong:
            raise ConfigError(f"backend=vllm has {reason}: set generation.{name}={value}")


def prompt_text(folder: Path, prompt: str) -> str:
    """Give the text that a model reads, with its mark where the image goes.

    Args:
        folder: Of the model.
        prompt: As of `generation.prompt`.

    Raises:
        ModelError: the processor cannot be loaded, or the model has nothing to read.
    """
    # torch and transformers take seconds to import
    from raycap.models.vlm.captioner import load_processor, written_prompt  # noqa: PLC0415

    text = written_prompt(load_processor(folder), prompt)
    if not text:
        raise ModelError(
            f"{folder.name}: has no chat template, and vLLM needs a prompt: set generation.prompt "
            "to what the model's page shows"
        )
    return text


def engine_args(model: ModelConfig, gpus_per_actor: float) -> dict[str, Any]:
    """Say what vLLM's engine is started with.

    Args:
        model: The arithmetic, and what the user has to say.
        gpus_per_actor: Several: the model is spread over them.
    """
    return {
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_cache_gb": 0,  # no image comes twice
        **model.vllm_args,
        "dtype": _DTYPES[model.precision],
        "tensor_parallel_size": max(1, int(gpus_per_actor)),
        "load_format": "safetensors",  # no pickle, which could run code
        "trust_remote_code": False,
    }


def sampling_params(folder: Path, generation: GenerationConfig) -> dict[str, Any]:
    """Say how each caption is searched for, in vLLM's words.

    Args:
        folder: Of the model, whose generation settings may suppress tokens.
        generation: The settings, checked.
    """
    told: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": generation.max_new_tokens,
        "min_tokens": generation.min_new_tokens,
        "repetition_penalty": generation.repetition_penalty,
        "logprobs": 0,  # of the tokens written alone
        "include_stop_str_in_output": True,  # an end token that is no special one is text
    }
    if generation.sampling.enabled:
        told |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
        }
    file = folder / GENERATION_FILE
    suppressed = (read_json(file).get("suppress_tokens") if file.is_file() else None) or []
    if suppressed:
        told["logit_bias"] = {int(token): -100.0 for token in suppressed}
    return told


def request(
    pixels: UInt8[np.ndarray, "h w 3"],
    prompt: str,
    params: Mapping[str, Any],
    generation: GenerationConfig,
) -> dict[str, Any]:
    """Ask for the caption of one image, in the words of `ray.data.llm`.

    Args:
        pixels: The image, at the size that the model wants.
        prompt: As of `prompt_text`.
        params: As of `sampling_params`.
        generation: For the seed of the draws.
    """
    told = dict(params)
    if generation.sampling.enabled:
        told["seed"] = image_seed(pixels, generation.sampling.seed)
    return {
        "prompt": prompt,
        "multimodal_data": {"image": Image.fromarray(pixels)},
        "sampling_params": told,
    }


def read_caption(answer: Mapping[str, Any]) -> Caption:
    """Read an answer of `ray.data.llm`.

    Args:
        answer: With the tokens, their log-probabilities before any penalty, and the text.
    """
    chosen = [
        of_step[token]["logprob"]
        for token, of_step in zip(answer["generated_tokens"], answer["logprobs"], strict=True)
    ]
    return Caption(
        text=" ".join(answer["generated_text"].split()), logprob=sum(chosen) / max(1, len(chosen))
    )
