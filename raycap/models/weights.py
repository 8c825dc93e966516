"""Load folders with transformers: only safetensors, without downloads or code of the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from raycap.errors import ModelError, RaycapError
from raycap.models.adapters import merge_adapter
from raycap.models.folders import CONFIG_FILE, check_layers

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
"""What DistributedDataParallel, torch.compile, FSDP and peft put before the names of tensors."""


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
        Exception: another error of transformers, see `load_errors`.
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
    _check_report(folder, report)
    if adapter is None:
        return network
    return merge_adapter(network, Path(adapter)).to(dtype)


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """Check that all weights were found: transformers initialises others at random."""
    for name, held, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{folder}: the weights do not fit {CONFIG_FILE}: {name} has the shape "
            f"{_shape(held)}, and {CONFIG_FILE} asks for {_shape(wanted)}: restore the two files "
            "that belong together",
            uri=str(folder),
        )
    missing = sorted(report["missing_keys"])
    if not missing:
        return
    for prefix in _WRAPPERS:
        if any(name.startswith(prefix) for name in report["unexpected_keys"]):
            raise ModelError(
                f"{folder}: the names of its tensors begin with {prefix!r}, as of a model that was "
                "saved inside a wrapper: save the model itself (unwrap_model, or model.module, "
                "then save_pretrained)",
                uri=str(folder),
            )
    strange = sorted(report["unexpected_keys"])
    instead = f", and have others instead, such as {strange[0]}" if strange else ""
    raise ModelError(
        f"{folder}: the weights lack {len(missing)} tensors that {CONFIG_FILE} asks for, such as "
        f"{missing[0]}{instead}: restore the two files that belong together",
        uri=str(folder),
    )


def _shape(sides: Any) -> str:
    return "x".join(map(str, sides)) or "a number"


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
    except RaycapError:
        raise
    except Exception as error:  # whatever transformers raises for files that are not as it wrote
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
