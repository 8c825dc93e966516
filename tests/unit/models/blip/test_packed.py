"""Linear layers with packed weights against plain ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from raycap.config import GenerationConfig, ModelConfig
from raycap.demo.scenes import render, scene
from raycap.models.blip.captioner import BlipCaptioner, load_network
from raycap.models.blip.kind import check_blip_folder
from raycap.models.blip.packed import ONEDNN, PackedLinear, pack
from raycap.models.sources import DEMO_FOLDER

pytestmark = pytest.mark.skipif(ONEDNN is None, reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("num_rows", [0, 1, 3, 24, 577, 1500])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_plain_layer(
    num_rows: int, has_bias: bool, dtype: torch.dtype
) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bf16")
    torch.manual_seed(0)
    linear = nn.Linear(48, 33, bias=has_bias, dtype=dtype)
    states = torch.randn(2, num_rows, 48, dtype=dtype)
    packed = PackedLinear(linear)
    with torch.inference_mode():
        torch.testing.assert_close(packed(states), linear(states))
        assert torch.equal(packed.gelu(states), functional.gelu(packed(states)))


def test_every_linear_layer_is_replaced_and_nothing_else() -> None:
    network = nn.ModuleDict(
        {
            "deep": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            "words": nn.Embedding(4, 4),
            "small": nn.Linear(4, 4, dtype=torch.float16),
            "elsewhere": nn.Linear(4, 4, device="meta"),
        }
    )
    pack(network)
    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    assert kinds["deep.0"] == "PackedLinear"
    assert kinds["deep.1"] == "LayerNorm"
    assert kinds["words"] == "Embedding"
    assert kinds["small"] == kinds["elsewhere"] == "Linear"


@pytest.mark.parametrize(("is_supported", "kind"), [(True, PackedLinear), (False, nn.Linear)])
def test_bf16_is_packed_where_the_cpu_has_products_of_it(
    is_supported: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_supported and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bf16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: is_supported)
    network = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), nn.Linear(4, 4))
    pack(network)
    assert [type(layer) for layer in network] == [kind, PackedLinear]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_demo_model_says_the_same(num_beams: int) -> None:
    generation = GenerationConfig(num_beams=num_beams)
    model = ModelConfig.model_validate({"precision": "fp32"})
    packed = BlipCaptioner.from_pretrained(DEMO_FOLDER, model, generation)
    assert any(type(module) is PackedLinear for module in packed._model.modules())
    network, tokenizer = load_network(DEMO_FOLDER, torch.float32)
    plain = BlipCaptioner(network, tokenizer, check_blip_folder(DEMO_FOLDER), generation)
    side = (plain.target.width_px, plain.target.height_px)
    pixels = np.stack([np.asarray(render(scene(9000, n)).resize(side)) for n in range(32)])
    expected, found = plain.caption(pixels), packed.caption(pixels)
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    assert [caption.logprob for caption in found] == pytest.approx(
        [caption.logprob for caption in expected], abs=1e-4
    )
