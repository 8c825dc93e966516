"""Load safetensors into a network: each tensor once, checked by name and shape."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from raycap.errors import ModelError, RaycapError
from raycap.models.folders import CONFIG_FILE, check_layers, weight_files

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
"""What DistributedDataParallel, torch.compile, FSDP and peft put before the names of tensors."""

_COUNTERS = re.compile(r"(^|\.)position_ids$")
"""Numbers from 0 on, which transformers stored with the weights until 2023."""


def fill(
    network: nn.Module, folder: Path, dtype: torch.dtype, tied: Mapping[str, str], prefix: str
) -> None:
    """Load the weights of a folder into a network, in place, on the CPU.

    The files stay unused afterwards, so they may change or vanish.

    Args:
        network: On torch's device `meta`.
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.
        tied: Names of weights that are the same as others, and the names of those. A folder may
            hold both or either; if they differ, they stay separate.
        prefix: What names may begin with in the file.

    Raises:
        ModelError: the weights do not fit the network.
        Exception: a file is damaged, see `load_errors`.
    """
    check_layers(folder)
    wanted = {
        name: tuple(weight.shape)
        for name, weight in network.named_parameters(remove_duplicate=False)
    }
    held: dict[str, Tensor] = {}
    strange: list[str] = []
    misfits: list[tuple[str, Any, Any]] = []
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            for stored_name in stored.keys():  # noqa: SIM118  not a mapping
                bare = stored_name.removeprefix(prefix)
                name = bare if bare in wanted else stored_name
                shape = tuple(stored.get_slice(stored_name).get_shape())
                if name not in wanted:
                    strange.append(name)
                elif shape != wanted[name]:
                    misfits.append((name, shape, wanted[name]))
                else:
                    # A copy: the tensor itself is a view of the file.
                    held[name] = stored.get_tensor(stored_name).to(dtype, copy=True)
    _join(held, tied)
    missing = wanted.keys() - held.keys() - {name for name, *_ in misfits}
    unexpected = {name for name in strange if not _COUNTERS.search(name)}
    check_names(folder, missing=missing, unexpected=unexpected, misfits=misfits)
    network.load_state_dict(held, assign=True)
    for name, source in tied.items():
        if held[name] is held[source]:
            module, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(module), attribute, network.get_parameter(source))


def _join(held: dict[str, Tensor], tied: Mapping[str, str]) -> None:
    """Make tied weights one tensor, unless they differ."""
    for name, source in tied.items():
        ours, others = held.get(name), held.get(source)
        if ours is not None and (others is None or not torch.equal(ours, others)):
            held.setdefault(source, ours)
        elif others is not None:
            held[name] = others


def check_names(
    folder: Path,
    *,
    missing: set[str],
    unexpected: set[str],
    misfits: list[tuple[str, Any, Any]],
) -> None:
    """Check that a network got all of its weights.

    Args:
        folder: Where they came from.
        missing: Names of weights that the network has and the folder lacks.
        unexpected: Names of weights that only the folder has. They do no harm by themselves.
        misfits: Names of weights of another shape; the shapes in the folder and in the network.

    Raises:
        ModelError: it did not.
    """
    for name, held, wanted in sorted(misfits):
        raise ModelError(
            f"{folder}: the weights do not fit {CONFIG_FILE}: {name} has the shape "
            f"{_shape(held)}, and {CONFIG_FILE} asks for {_shape(wanted)}: restore the two files "
            "that belong together",
            uri=str(folder),
        )
    if not missing:
        return
    for prefix in _WRAPPERS:
        if any(name.startswith(prefix) for name in unexpected):
            raise ModelError(
                f"{folder}: the names of its tensors begin with {prefix!r}, as of a model that was "
                "saved inside a wrapper: save the model itself (unwrap_model, or model.module, "
                "then save_pretrained)",
                uri=str(folder),
            )
    instead = f", and have others instead, such as {min(unexpected)}" if unexpected else ""
    raise ModelError(
        f"{folder}: the weights lack {len(missing)} tensors that {CONFIG_FILE} asks for, such as "
        f"{min(missing)}{instead}: restore the two files that belong together",
        uri=str(folder),
    )


def _shape(sides: Any) -> str:
    return "x".join(map(str, sides)) or "a number"


@contextmanager
def load_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of libraries that load a folder into a ModelError of one line.

    Args:
        folder: The folder being loaded.
        what: What it is loaded as, such as "BLIP".

    Raises:
        ModelError: files are broken or do not fit together, or a package is not installed.
    """
    try:
        yield
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{folder}: needs a package that is not installed: {reason}", uri=str(folder)
        ) from error
    except RaycapError:
        raise
    except Exception as error:  # whatever a library raises for files that are not as it wrote
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{folder}: cannot be loaded as {what} ({type(error).__name__}: {reason}): "
            "restore its files or choose another model",
            uri=str(folder),
        ) from error
