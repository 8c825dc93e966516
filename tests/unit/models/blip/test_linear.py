"""Linear layers by the faster library: the same numbers, and only where it may be used."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from raycap.models.blip.decoding import apply_linear


class Updated(nn.Linear):
    """A layer that adds to its linear output, as low-rank updates do."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states) + 1.0


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("shape", [(1,), (3, 5), (100,), (1500,), (2, 600), (0,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_numbers_are_those_of_the_module(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    module = nn.Linear(24, 40, bias=bias, dtype=dtype)
    states = torch.randn(*shape, 24, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(apply_linear(module, states), module(states))


def test_what_is_more_than_a_linear_layer_is_called() -> None:
    module, states = Updated(6, 7), torch.randn(2, 6)
    with torch.inference_mode():
        torch.testing.assert_close(apply_linear(module, states), module(states))


def test_gradients_flow_where_they_are_wanted() -> None:
    module = nn.Linear(6, 7)
    torch.autograd.backward(apply_linear(module, torch.randn(2, 6)).sum())
    assert module.weight.grad is not None


def test_autocast_decides_the_arithmetic() -> None:
    module = nn.Linear(6, 7)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert apply_linear(module, torch.randn(2, 6)).dtype is torch.bfloat16


def test_changed_weights_count_at_once() -> None:
    module, states = nn.Linear(6, 7), torch.ones(1, 6)
    with torch.inference_mode():
        before = apply_linear(module, states)
    with torch.no_grad():
        module.weight.add_(1.0)
    with torch.inference_mode():
        torch.testing.assert_close(apply_linear(module, states), before + 6.0)
