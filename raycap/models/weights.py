"""Load a checked folder with transformers: safetensors only, nothing fetched, no code of it run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from raycap.errors import ModelError

_LOAD_ERRORS = (
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def load_network(folder: Path, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a BLIP captioning network, on the CPU, and its tokenizer.

    Args:
        folder: Hugging Face folder, checked already.
        dtype: Arithmetic wanted, whatever the weights are stored in.

    Raises:
        ModelError: the files are broken or do not fit together.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            return _load_complete(BlipForConditionalGeneration, folder, dtype), tokenizer
    except _LOAD_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{folder}: cannot be loaded as BLIP ({type(error).__name__}: {reason}): "
            "restore its files or choose another model"
        ) from error


def load_vlm(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a vision-language model, on the CPU, and its processor.

    Args:
        folder: Hugging Face folder, checked already.
        dtype: Arithmetic wanted, whatever the weights are stored in.

    Raises:
        ModelError: the files are broken or do not fit together, transformers knows the model only
            by code of the folder's own, or a package that it needs is not installed.
    """
    with _explained(folder), quiet():
        processor = _processor(folder)
        return _load_complete(AutoModelForImageTextToText, folder, dtype), processor


def load_processor(folder: Path) -> Any:
    """Load the processor of a vision-language model alone.

    Raises:
        ModelError: as `load_vlm` raises it.
    """
    with _explained(folder), quiet():
        return _processor(folder)


def _processor(folder: Path) -> Any:
    load: Any = AutoProcessor.from_pretrained
    processor = load(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError("it has no processor of images and text")
    return processor


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say in one line what is wrong with the folder of a vision-language model."""
    try:
        yield
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder}: needs a package that is not installed: {reason}") from error
    except _LOAD_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{folder}: cannot be loaded as a vision-language model ({type(error).__name__}: "
            f"{reason}): restore its files or choose another model"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice out of the log; faults are raised anyway."""
    logs: Any = transformers.utils.logging
    verbosity, had_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if had_bars:
            logs.enable_progress_bar()


def _load_complete(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    network, report = kind.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers, and the captions with nonsense.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors, such as {missing[0]}")
    return network
