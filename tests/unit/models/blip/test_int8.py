"""Linear layers in 8 bits against those in fp32."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raycap.config import GenerationConfig, ModelConfig
from raycap.demo.scenes import render, scene
from raycap.errors import ModelError
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.blip.int8 import Int8Linear, check_int8, quantize
from raycap.models.load import load_captioner
from raycap.models.sources import DEMO_FOLDER, find_model


def has_int8() -> bool:
    try:
        check_int8(torch.device("cpu"))
    except ModelError:
        return False
    return True


needs_int8 = pytest.mark.skipif(not has_int8(), reason="this processor has no 8-bit products")


@needs_int8
@pytest.mark.parametrize("num_rows", [1, 3, 576, 577, 578, 1500])
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_are_those_of_the_rounded_factors(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 33, bias=has_bias)
    states = torch.randn(num_rows, 48) * torch.logspace(-3, 3, num_rows)[:, None]

    with torch.inference_mode():
        found = Int8Linear(linear)(states)

    weight = linear.weight.detach()
    weight_scale = weight.abs().amax(1, keepdim=True) / 127
    state_scale = states.abs().amax(1, keepdim=True) / 127
    whole = (states / state_scale).round().double() @ (weight / weight_scale).round().double().T
    expected = whole * state_scale * weight_scale.T + (linear.bias.detach() if has_bias else 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@needs_int8
def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 16))
    states = torch.randn(2, 5, 32)
    states[1] *= 1000

    with torch.inference_mode():
        together = layer(states)
        alone = layer(states[:1])

    assert torch.equal(together[:1], alone)


@needs_int8
def test_zeros_and_empty_batches_are_fine() -> None:
    linear = nn.Linear(8, 4)
    with torch.inference_mode():
        zeros = Int8Linear(linear)(torch.zeros(3, 8))
        nothing = Int8Linear(linear)(torch.zeros(0, 8))

    torch.testing.assert_close(zeros, linear.bias.detach().expand(3, 4))
    assert nothing.shape == (0, 4)


@needs_int8
def test_numbers_that_are_not_finite_stay_so() -> None:
    """So that an image whose numbers overflow is a failed row, not a wrong caption."""
    with torch.inference_mode():
        found = Int8Linear(nn.Linear(8, 4))(torch.tensor([[float("nan")] * 8, [1.0] * 8]))

    assert not found[0].isfinite().any()
    assert found[1].isfinite().all()


def test_every_linear_layer_is_replaced_and_nothing_else() -> None:
    network = nn.ModuleDict(
        {"deep": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "words": nn.Embedding(4, 4)}
    )
    quantize(network)

    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    assert kinds["deep.0"] == "Int8Linear"
    assert kinds["deep.1"] == "LayerNorm"
    assert kinds["words"] == "Embedding"


@needs_int8
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_demo_model_says_nearly_the_same(num_beams: int) -> None:
    generation = GenerationConfig(num_beams=num_beams)
    exact, rounded = (
        BlipCaptioner.from_pretrained(
            DEMO_FOLDER, ModelConfig.model_validate({"precision": precision}), generation
        )
        for precision in ("fp32", "int8")
    )
    side = (exact.target.width_px, exact.target.height_px)
    pixels = np.stack([np.asarray(render(scene(9000, n)).resize(side)) for n in range(64)])

    expected, found = exact.caption(pixels), rounded.caption(pixels)

    same = [one.text == other.text for one, other in zip(expected, found, strict=True)]
    assert sum(same) >= 58
    alone = rounded.caption(pixels[:1])
    assert alone[0].text == found[0].text


def test_an_accelerator_is_refused() -> None:
    with pytest.raises(ModelError, match="cuda") as caught:
        check_int8(torch.device("cuda"))
    assert caught.value.setting == "model.precision"


@pytest.mark.parametrize("kind", ["cnn-lstm", "transformer", "hybrid", "stub"])
def test_other_kinds_refuse_8_bits_before_anything_is_loaded(kind: str) -> None:
    source = replace(find_model("stub"), kind=kind, name="mine")
    model = ModelConfig.model_validate({"precision": "int8"})
    with pytest.raises(ModelError, match=kind) as caught:
        load_captioner(source, model, GenerationConfig())
    assert caught.value.setting == "model.precision"
