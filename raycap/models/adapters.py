"""LoRA adapters of peft: small updates of a model's weights, in a folder of their own.

    adapter_config.json           the model they belong to, and how they are added
    adapter_model.safetensors     the updates

They are merged into the weights when the model is loaded, so that captioning is as fast as without.
Of the settings only those of plain LoRA are passed to peft, and any other that changes captions is
refused: some name modules to import. This module imports neither torch nor peft; `merge_adapter`
does when it is called.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from raycap.errors import ConfigError, ModelError
from raycap.models.base import AdapterSource
from raycap.models.folders import (
    PICKLE_PATTERNS,
    WEIGHT_FILE,
    WEIGHT_INDEX_FILE,
    digest_files,
    find_files,
    local_folder,
    read_json,
    read_shapes,
    refuse_pickle,
)

ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHT_FILE = "adapter_model.safetensors"

_METHOD = "LORA"
_PASSED = (
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "fan_in_fan_out",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
)
"""Settings of peft's LoraConfig that raycap passes on."""
_REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Settings that change captions and are not passed on. All others are for training only."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own."""
    names = (WEIGHT_FILE, WEIGHT_INDEX_FILE)
    has_weights = any((folder / name).is_file() for name in names)
    return (folder / ADAPTER_FILE).is_file() and not has_weights


def find_adapter(name: str) -> AdapterSource:
    """Find an adapter by name, download it from the Hub if necessary, check and identify it.

    Args:
        name: A local folder, a Hub name, or a Hub `name@revision`.

    Raises:
        ModelError: it does not exist, or is not a LoRA adapter in safetensors.
    """
    return read_adapter(*find_files(name, "adapter"))


def read_adapter(folder: Path, name: str, revision: str | None) -> AdapterSource:
    """Check and identify the adapter in a folder.

    Raises:
        ModelError: it is not a LoRA adapter in safetensors.
    """
    if not is_adapter(folder):
        raise ModelError(
            f"{folder}: not an adapter ({ADAPTER_FILE} without weights of a model): give the "
            "folder that peft's save_pretrained wrote",
            uri=str(folder),
            setting="model.adapter",
        )
    config = read_json(folder / ADAPTER_FILE)
    _check_config(folder, config)
    _check_weights(folder, config)
    base = config.get("base_model_name_or_path")
    base_revision = config.get("revision")
    if isinstance(base, str) and isinstance(base_revision, str) and local_folder(base) is None:
        base = f"{base}@{base_revision}"
    return AdapterSource(
        name=name,
        revision=revision,
        folder=str(folder),
        digest=digest_files(folder, [ADAPTER_FILE, ADAPTER_WEIGHT_FILE]),
        base=base if isinstance(base, str) and base else None,
    )


def adapter_here(adapter: AdapterSource) -> Path:
    """Return an adapter's folder on this node, after checking that it is the same adapter.

    Raises:
        ModelError: it is not on this node, or differs from the one that was found.
    """
    named = f"{adapter.name}@{adapter.revision}" if adapter.revision else adapter.folder
    found = find_adapter(named)
    if found.digest != adapter.digest:
        raise ModelError(
            f"{found.folder}: not the adapter this run started with (its files differ on this "
            "node, or have changed since): restore them, or start a new run",
            uri=found.folder,
        )
    return Path(found.folder)


def check_peft() -> None:
    """Check that adapters can be merged.

    Raises:
        ConfigError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "an adapter needs the extra raycap[lora], on every node: pip install 'raycap[lora]'",
            setting="model.adapter",
        )


def with_lora(network: Any, settings: Any) -> Any:
    """Return peft's model around a network, with new LoRA weights.

    Args:
        network: A model of transformers.
        settings: A LoraConfig of peft.
    """
    from peft import get_peft_model  # noqa: PLC0415  an optional extra

    with warnings.catch_warnings():
        # peft still uses a name that transformers has deprecated.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(network, settings)


def merge_adapter(network: Any, folder: Path) -> Any:
    """Merge an adapter into a network.

    Args:
        network: A model of transformers on the CPU, in fp32: its rounding is that of the sum.
        folder: Of the adapter, already checked.

    Raises:
        ModelError: the adapter does not fit the network.
    """
    import peft  # noqa: PLC0415  an optional extra
    import safetensors.torch  # noqa: PLC0415

    config = read_json(folder / ADAPTER_FILE)
    passed = {name: config[name] for name in _PASSED if config.get(name) is not None}
    try:
        adapted = with_lora(network, peft.LoraConfig(**passed))
        tensors = safetensors.torch.load_file(folder / ADAPTER_WEIGHT_FILE)
        found: Any = peft.set_peft_model_state_dict(adapted, tensors)
    except Exception as error:  # peft raises anything
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder}: the adapter does not fit the model ({reason}): give the model that it was "
            "trained on",
            uri=str(folder),
            setting="model.adapter",
        ) from error
    missing = [name for name in found.missing_keys if "lora_" in name or "modules_to_save" in name]
    strange = [*missing, *found.unexpected_keys]
    if strange:
        raise ModelError(
            f"{folder}: the adapter does not fit the model, which has {strange[0]!r} in only one "
            "of the two: give the model that it was trained on",
            uri=str(folder),
            setting="model.adapter",
        )
    return adapted.merge_and_unload()


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    method = config.get("peft_type")
    if method != _METHOD:
        raise ModelError(
            f"{folder}: an adapter of kind {method!r}; raycap loads {_METHOD}: merge it into the "
            "weights (merge_and_unload) and give the folder of the merged model",
            uri=str(folder),
        )
    for name in _REFUSED:
        if config.get(name):
            raise ModelError(
                f"{folder}: {ADAPTER_FILE} sets {name}, which raycap does not support: merge the "
                "adapter into the weights (merge_and_unload) and give the merged model",
                uri=str(folder),
            )


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    file = folder / ADAPTER_WEIGHT_FILE
    if not file.is_file():
        pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
        found = f" ({pickles[0]}, a pickle, can run code when loaded)" if pickles else ""
        raise ModelError(
            f"{folder}: a LoRA adapter without {ADAPTER_WEIGHT_FILE}{found}: save it there with "
            "save_pretrained of peft",
            uri=str(folder),
        )
    refuse_pickle(file)
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    shapes = read_shapes(file)
    # Before peft allocates them.
    most = max((max(shape, default=0) for shape in shapes.values()), default=0)
    for rank in ranks:
        if not isinstance(rank, int) or not 0 < rank <= most:
            raise ModelError(
                f"{folder / ADAPTER_FILE}: a rank of {rank!r}, which does not fit "
                f"{ADAPTER_WEIGHT_FILE}: restore the files",
                uri=str(folder / ADAPTER_FILE),
            )
