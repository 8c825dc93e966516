"""Load folders with transformers: only safetensors, without downloads or code of the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

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


def load_complete(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load a network onto the CPU.

    Args:
        model_class: A model class of transformers.
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.

    Raises:
        ValueError: weights are missing; or another error of transformers, see `load_errors`.
    """
    network, report = model_class.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers initialises missing weights at random, and the captions would be nonsense.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors, such as {missing[0]}")
    return network


@contextmanager
def load_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of transformers into a ModelError of one line, and silence its output.

    Args:
        folder: The folder being loaded.
        what: What it is loaded as, such as "BLIP".

    Raises:
        ModelError: files are broken or do not fit together, or a package is not installed.
    """
    try:
        with quiet():
            yield
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{folder}: needs a package that is not installed: {reason}", uri=str(folder)
        ) from error
    except _LOAD_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{folder}: cannot be loaded as {what} ({type(error).__name__}: {reason}): "
            "restore its files or choose another model",
            uri=str(folder),
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and advice of transformers; errors are raised anyway."""
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
