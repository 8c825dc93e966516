"""Requests to vLLM and its answers, in the format of `ray.data.llm`. Does not import vLLM.

A vision-language model gets the same images and the same prompt as in `vlm.captioner`, and captions
greedily or with seeds from the images' pixels. vLLM batches requests as they arrive, so the
rounding for an image, and thus near ties, can depend on requests that run at the same time.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raycap.answers.typed import answer_type, dump
from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.models.base import Caption, ModelSource, image_seed
from raycap.models.folders import GENERATION_FILE, read_json
from raycap.models.generation import check_single_search
from raycap.models.kinds import KINDS, find_kind
from raycap.models.sources import refuse_adapter
from raycap.models.vlm.kind import processor_settings

_DTYPES = {
    "auto": "auto",
    "fast": "auto",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
_OWN_ARGS = {
    "model": "model.name",
    "dtype": "model.precision",
    "tensor_parallel_size": "engine.gpus_per_actor",
    "load_format": None,
    "trust_remote_code": None,
    "task_type": None,
}
"""Arguments that raycap sets, and the settings that determine them."""


def check_backend(source: ModelSource, model: ModelConfig, generation: GenerationConfig) -> None:
    """Check that the settings fit vLLM, if `model.backend` asks for it.

    Raises:
        ConfigError: vLLM does not support the search, or raycap sets an argument itself.
        ModelError: vLLM does not support the kind of model, or is not installed.
    """
    if model.backend != "vllm":
        return
    if not find_kind(source.kind).runs_on_vllm:
        able = ", ".join(kind.name for kind in KINDS if kind.runs_on_vllm)
        raise ModelError(
            f"backend=vllm supports models of kind {able}; {source.name} is of kind {source.kind}: "
            "leave it out",
            setting="model.backend",
        )
    refuse_adapter(source, "backend=vllm")
    check_single_search("vllm", generation)
    for name in model.vllm_args.keys() & _OWN_ARGS.keys():
        remedy = f"set {_OWN_ARGS[name]}" if _OWN_ARGS[name] else "leave it out"
        raise ConfigError(
            f"vllm_args.{name}: raycap sets it: {remedy}", setting=f"model.vllm_args.{name}"
        )
    if find_spec("vllm") is None:
        raise ModelError(
            "backend=vllm needs vLLM, which is not installed: pip install 'raycap[vllm]' into an "
            "separate environment, on every node; it needs another torch than raycap is tested "
            "with",
            setting="model.backend",
        )


def refuse_backend(model: ModelConfig, what: str) -> None:
    """Refuse other backends for commands that support only raycap's own captioners.

    Args:
        model: The settings.
        what: Name of the command, for the message.

    Raises:
        ConfigError: `model.backend` is not torch.
    """
    if model.backend != "torch":
        raise ConfigError(
            f"model.backend={model.backend}: {what} does not support it: leave it out",
            setting="model.backend",
        )


def prompt_text(folder: Path, prompt: str) -> str:
    """Return the text that a model reads, with its placeholder for the image.

    Args:
        folder: Of the model.
        prompt: The setting `generation.prompt`.

    Raises:
        ModelError: the processor cannot be loaded, or the text is empty.
    """
    # torch and transformers take seconds to import
    from raycap.models.vlm.captioner import load_processor, written_prompt  # noqa: PLC0415

    text = written_prompt(load_processor(folder), prompt)
    if not text:
        raise ModelError(
            f"{folder.name}: has no chat template, and vLLM needs a prompt: set generation.prompt "
            "to the prompt that the model's page shows",
            uri=str(folder),
            setting="generation.prompt",
        )
    return text


def engine_args(model: ModelConfig, gpus_per_actor: float, target: Target) -> dict[str, Any]:
    """Return the arguments of vLLM's engine.

    Args:
        model: Precision, and arguments of the user.
        gpus_per_actor: If more than one, the model is split over them.
        target: Sizes of the images.
    """
    own = dict(model.vllm_args)
    if fitted := processor_settings(target):
        own["mm_processor_kwargs"] = {**own.get("mm_processor_kwargs", {}), **fitted}
    return {
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_cache_gb": 0,  # an image occurs once, or for some prompts in a row
        **own,
        "dtype": _DTYPES[model.precision],
        "tensor_parallel_size": max(1, int(gpus_per_actor)),
        "load_format": "safetensors",  # no pickle, which could run code
        "trust_remote_code": False,
    }


def sampling_params(folder: Path, generation: GenerationConfig) -> dict[str, Any]:
    """Return the sampling parameters of vLLM.

    Args:
        folder: Of the model; its generation settings may suppress tokens.
        generation: The settings, already checked.
    """
    params: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": generation.max_new_tokens,
        "min_tokens": generation.min_new_tokens,
        "repetition_penalty": generation.repetition_penalty,
        "logprobs": 0,  # of the generated tokens only
        "include_stop_str_in_output": True,  # an end token that is not special is text
    }
    if generation.sampling.enabled:
        params |= {
            "temperature": generation.sampling.temperature,
            "top_k": generation.sampling.top_k or 0,
            "top_p": generation.sampling.top_p,
        }
    file = folder / GENERATION_FILE
    suppressed = (read_json(file).get("suppress_tokens") if file.is_file() else None) or []
    if suppressed:
        params["logit_bias"] = {int(token): -100.0 for token in suppressed}
    return params


def structured_outputs(json_schema: str | None) -> dict[str, Any]:
    """Return the sampling parameter that holds an answer to a JSON schema; none without one."""
    if json_schema is None:
        return {}
    return {"structured_outputs": {"json": dump(answer_type(json_schema).enforced())}}


def request(
    pixels: UInt8[np.ndarray, "h w 3"],
    prompt: str,
    params: Mapping[str, Any],
    generation: GenerationConfig,
) -> dict[str, Any]:
    """Return the request for the caption of one image.

    Args:
        pixels: The image, at a size of the model's target.
        prompt: From `prompt_text`.
        params: From `sampling_params`.
        generation: For the seed of sampling.
    """
    own = dict(params)
    if generation.sampling.enabled:
        own["seed"] = image_seed(pixels, generation.sampling.seed)
    return {
        "prompt": prompt,
        "multimodal_data": {"image": Image.fromarray(pixels)},
        "sampling_params": own,
    }


def read_caption(answer: Mapping[str, Any], max_new_tokens: int) -> Caption:
    """Convert an answer to a caption.

    Args:
        answer: With tokens, their log-probabilities before penalties, and text.
        max_new_tokens: That it was allowed; an answer of that length counts as cut off.
    """
    chosen = [
        of_step[token]["logprob"]
        for token, of_step in zip(answer["generated_tokens"], answer["logprobs"], strict=True)
    ]
    return Caption(
        text=" ".join(answer["generated_text"].split()),
        logprob=sum(chosen) / max(1, len(chosen)),
        finish="stop" if len(chosen) < max_new_tokens else "length",
        num_tokens=len(chosen),
        num_prompt_tokens=answer.get("num_input_tokens"),
    )
