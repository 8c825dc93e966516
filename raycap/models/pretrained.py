"""Load folders with transformers: only safetensors, without downloads or code of the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from raycap.models.adapters import merge_adapter
from raycap.models.folders import check_layers
from raycap.models.weights import check_names, load_errors


def load_complete(
    model_class: Any, folder: Path, dtype: torch.dtype, adapter: str | None = None
) -> Any:
    """Load a network onto the CPU.

    Args:
        model_class: A model class of transformers.
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.
        adapter: Folder of a LoRA adapter to merge into them.

    Raises:
        ModelError: the weights do not fit `config.json`, or the adapter the weights.
        Exception: another error of transformers, see `loading`.
    """
    check_layers(folder)
    network, report = model_class.from_pretrained(
        folder,
        dtype=dtype if adapter is None else torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, by name
    )
    # transformers initialises missing weights at random.
    check_names(
        folder,
        missing=set(report["missing_keys"]),
        unexpected=set(report["unexpected_keys"]),
        misfits=list(report["mismatched_keys"]),
    )
    if adapter is None:
        return network
    return merge_adapter(network, Path(adapter)).to(dtype)


@contextmanager
def loading(folder: Path, what: str) -> Iterator[None]:
    """Silence transformers, and turn its errors into a ModelError of one line.

    Args:
        folder: The folder being loaded.
        what: What it is loaded as, such as "CLIP".

    Raises:
        ModelError: files are broken or do not fit together, or a package is not installed.
    """
    with load_errors(folder, what), quiet():
        yield


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
