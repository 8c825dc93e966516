"""What of a model's folder could run code, or change captions unseen, when it is loaded.

Safetensors hold numbers and no code. But files of that name can be something else, and other files
of the folder can send the loader to more: an index to any file, an adapter's settings to another
model, and `attn_implementation` to compiled code on the Hub.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycap.errors import ModelError
from raycap.models.folders import CONFIG_FILE, WEIGHT_FILE, WEIGHT_INDEX_FILE, read_json

_ADAPTER_FILE = "adapter_config.json"
_ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
_OWN_ATTENTION = frozenset({None, "eager", "sdpa"})
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # pickle's protocol 2 on, and torch.save's zip


def check_safe(folder: Path) -> None:
    """Check that loading a folder reads its own safetensors and nothing else.

    Raises:
        ModelError: a file of weights is a pickle, or other weights or code would be loaded.
    """
    if (folder / _ADAPTER_FILE).is_file():
        raise ModelError(
            f"{folder}: holds an adapter ({_ADAPTER_FILE}), which is loaded over the weights and "
            "may name another model: merge it into the weights (merge_and_unload) and save them"
        )
    for name in _found_values(read_json(folder / CONFIG_FILE), _ATTENTION):
        if name not in _OWN_ATTENTION:
            raise ModelError(
                f"{folder / CONFIG_FILE}: attn_implementation is {json.dumps(name)}, which can "
                "fetch code and is refused: take it out"
            )
    for name in _shards(folder):
        if not name.endswith(".safetensors") or name != Path(name).name:
            raise ModelError(
                f"{folder / WEIGHT_INDEX_FILE}: names {name!r}, which is no safetensors file of "
                "that folder and is refused: restore the file"
            )
    for file in sorted(folder.glob("*.safetensors")):
        _refuse_pickle(file)


def _found_values(value: object, names: frozenset[str]) -> Iterator[Any]:
    """Find the values of some names, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names:
                yield from inner.values() if isinstance(inner, dict) else [inner]
            yield from _found_values(inner, names)


def _shards(folder: Path) -> list[str]:
    index = folder / WEIGHT_INDEX_FILE
    if not index.is_file():
        return [WEIGHT_FILE]
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict):
        raise ModelError(f"{index}: no weight_map: restore the file")
    return sorted({str(name) for name in found.values()})


def _refuse_pickle(file: Path) -> None:
    try:
        with file.open("rb") as content:
            start = content.read(9)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from None
    # Eight bytes for the header's length, under 100 MB, then the header, which is JSON.
    is_safetensors = start[4:8] == bytes(4) and start[8:] == b"{"
    if start.startswith(_PICKLE_STARTS) and not is_safetensors:
        raise ModelError(
            f"{file}: is a pickle under another name; pickles can run code when loaded and are "
            f"refused: convert it to safetensors (load with transformers, save_pretrained)"
        )
