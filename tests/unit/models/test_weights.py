"""Loading of weights: each once, converted, and independent of the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raycap.errors import ModelError
from raycap.models.folders import CONFIG_FILE, WEIGHT_FILE, write_json
from raycap.models.weights import fill

FP32 = torch.float32
TIED = {"last.weight": "first.weight"}


def network() -> Any:
    layers = {name: nn.Linear(3, 3, bias=False, device="meta") for name in ("first", "last")}
    return nn.ModuleDict(layers).requires_grad_(False)


def folder_of(folder: Path, **tensors: torch.Tensor) -> Path:
    save_file({f"{name}.weight": value for name, value in tensors.items()}, folder / WEIGHT_FILE)
    write_json(folder / CONFIG_FILE, {})
    return folder


def numbers(seed: int) -> torch.Tensor:
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("names", [("first",), ("last",), ("first", "last")])
def test_tied_weights_are_one_parameter(names: tuple[str, ...], tmp_path: Path) -> None:
    held = {name: numbers(0) for name in names}
    loaded = network()
    fill(loaded, folder_of(tmp_path, **held), FP32, TIED, "")
    assert loaded["first"].weight is loaded["last"].weight
    assert torch.equal(loaded["first"].weight, numbers(0))
    assert not loaded["first"].weight.requires_grad
    assert len(list(loaded.parameters())) == 1


def test_weights_that_differ_are_not_tied(tmp_path: Path) -> None:
    loaded = network()
    fill(loaded, folder_of(tmp_path, first=numbers(0), last=numbers(1)), FP32, TIED, "")
    assert torch.equal(loaded["first"].weight, numbers(0))
    assert torch.equal(loaded["last"].weight, numbers(1))


def test_weights_that_nothing_ties_are_all_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        fill(network(), folder_of(tmp_path, first=numbers(0)), FP32, {}, "")
    assert caught.value.uri == str(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_do_not_depend_on_the_file_any_more(dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = network()
    file = folder_of(tmp_path, first=numbers(0)) / WEIGHT_FILE
    fill(loaded, tmp_path, dtype, TIED, "")
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(loaded["first"].weight, numbers(0).to(dtype))
