"""raycap's own BLIP network against that of transformers: names, defaults, numbers, imports."""

import random
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import BlipConfig, BlipForConditionalGeneration
from transformers.activations import ACT2FN

from raycap.models.blip.config import BlipConfig as OwnConfig
from raycap.models.blip.config import TextConfig, VisionConfig
from raycap.models.blip.decoding import encode_images
from raycap.models.blip.network import ACTIVATIONS, Group, build_network
from tests.support import tiny_blip
from tests.support.random_blip import ours as search
from tests.support.random_blip import random_search, seeded

_one_thread = tiny_blip.one_thread

HAS_WEIGHTS = {"prelu", "xielu"}
RARE = {"laplace", "sqrtsoftplus"}


def random_config(rng: random.Random) -> dict[str, Any]:
    def part(**more: Any) -> dict[str, Any]:
        num_heads = rng.choice([1, 2, 4])
        return {
            "hidden_size": num_heads * rng.choice([4, 8]),
            "intermediate_size": rng.choice([8, 32]),
            "num_hidden_layers": rng.randint(0, 3),
            "num_attention_heads": num_heads,
            "hidden_act": rng.choice(["gelu", "quick_gelu", "gelu_new", "relu"]),
            "layer_norm_eps": rng.choice([1e-12, 1e-5, 1e-2]),
            **more,
        }

    patch_size = rng.choice([4, 8])
    text = {"vocab_size": rng.randint(14, 60), "max_position_embeddings": 32}
    tokens = {"bos_token_id": 1, "sep_token_id": 2, "pad_token_id": rng.choice([0, None])}
    return {
        "model_type": "blip",
        "vision_config": part(image_size=24, patch_size=patch_size),
        "text_config": part(**text, **tokens),
    }


def pair(config: dict[str, Any]) -> tuple[Any, Any]:
    """Both networks with the same random weights, in double precision."""
    theirs: Any = BlipForConditionalGeneration(BlipConfig.from_dict(config))
    theirs.eval().double()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0, 0.5)
    own = build_network(OwnConfig.model_validate(config))
    own.load_state_dict(theirs.state_dict(), assign=True)
    return own, theirs


@pytest.mark.parametrize("seed", range(4))
def test_weights_have_the_names_and_shapes_of_transformers(seed: int) -> None:
    config = random_config(random.Random(seed))
    theirs: Any = BlipForConditionalGeneration(BlipConfig.from_dict(config))
    expected = {name: weight.shape for name, weight in theirs.state_dict().items()}
    own = build_network(OwnConfig.model_validate(config))
    assert {name: weight.shape for name, weight in own.state_dict().items()} == expected
    assert not any(weight.requires_grad for weight in own.parameters())
    assert not own.training


def test_nothing_is_allocated_for_weights_that_are_loaded_later() -> None:
    large = {"hidden_size": 65536, "num_attention_heads": 16, "intermediate_size": 10**6}
    own = build_network(OwnConfig.model_validate({"vision_config": large, "text_config": large}))
    assert {weight.device.type for weight in own.parameters()} == {"meta"}


def test_defaults_are_those_of_transformers() -> None:
    theirs: Any = BlipConfig()
    for own, part in (
        (VisionConfig(), theirs.vision_config),
        (TextConfig(), theirs.text_config),
        (OwnConfig(), theirs),
    ):
        for name, value in own:
            if not name.endswith("_config"):
                assert value == getattr(part, name), name


@pytest.mark.parametrize("name", sorted(set(ACT2FN) - HAS_WEIGHTS - RARE))
def test_activations_are_those_of_transformers_to_the_bit(name: str) -> None:
    states = torch.linspace(-12, 12, 4001)
    expected = ACT2FN[name](states)
    assert torch.equal(ACTIVATIONS[name](states), expected)


def test_an_activation_with_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="prelu"):
        build_network(OwnConfig(text_config=TextConfig(hidden_act="prelu")))


@pytest.mark.parametrize("seed", range(8))
def test_the_encoder_is_that_of_transformers(seed: int) -> None:
    config = random_config(random.Random(seed))
    with seeded(seed), torch.inference_mode():
        own, theirs = pair(config)
        pixels = torch.randn(3, 3, 24, 24, dtype=torch.float64)
        found = encode_images(own.vision_model, pixels)
        # To the bit by the same arithmetic, and up to rounding by transformers' own.
        assert torch.equal(found, encode_images(theirs.vision_model, pixels))
        expected = theirs.vision_model(pixels).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_decoder_is_that_of_transformers_to_the_bit(seed: int, num_beams: int) -> None:
    rng = random.Random(seed)
    config = random_config(rng)
    config["text_config"]["num_hidden_layers"] += 1
    generation = random_search(rng, num_beams)
    with seeded(seed), torch.inference_mode():
        own, theirs = pair(config)
        width = config["vision_config"]["hidden_size"]
        images = torch.randn(3, 5, width, dtype=torch.float64)
    start = torch.tensor([[1, 3]])
    found = search(own.text_decoder, images, start, generation)
    assert found == search(theirs.text_decoder, images, start, generation)


def test_embeddings_are_those_of_transformers_to_the_bit() -> None:
    with seeded(0), torch.inference_mode():
        own, theirs = pair(random_config(random.Random(5)))
        tokens = torch.randint(0, 14, (3, 4))
        for given in ({}, {"past_key_values_length": 7}, {"position_ids": torch.tensor([[9] * 4])}):
            expected = theirs.text_decoder.bert.embeddings(input_ids=tokens, **given)
            assert torch.equal(own.text_decoder.bert.embeddings(tokens, **given), expected)


def test_a_group_knows_where_its_weights_are() -> None:
    group: Any = Group(
        one=Group(two=nn.Linear(2, 2, dtype=torch.bfloat16)), act=functional.gelu, size=3
    )
    assert (group.device, group.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert (group.act, group.size) == (functional.gelu, 3)


def test_captioning_imports_neither_transformers_nor_the_compiler() -> None:
    program = """
import sys
import numpy as np
from raycap.captioning.captioner import CaptionActor
from raycap.config import GenerationConfig, ModelConfig
from raycap.models.load import load_captioner
from raycap.models.sources import find_model

source = find_model("demo")
for generation in (
    GenerationConfig(repetition_penalty=1.2, no_repeat_ngram_size=2, min_new_tokens=3),
    GenerationConfig(num_beams=1, sampling={"enabled": True, "top_k": 5, "top_p": 0.9}),
):
    captioner = load_captioner(source, ModelConfig(), generation)
    height, width = source.target.height_px, source.target.width_px
    (caption,) = captioner.caption(np.full((1, height, width, 3), 90, np.uint8))
    assert caption.text
slow = {"transformers", "torch._dynamo", "torch._inductor", "sympy", "scipy", "pandas",
    "matplotlib", "huggingface_hub", "beartype", "torchvision"}
print(sorted(slow & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
