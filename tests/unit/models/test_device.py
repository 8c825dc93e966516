"""What `model.precision=fast` means on each processor, and that a run keeps it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raycap.captioning.cascade import find_cascade
from raycap.captioning.claim import caption_fingerprint
from raycap.config import CaptionConfig, GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models import device
from raycap.models.base import ModelSource
from raycap.models.blip.int8 import Int8Linear
from raycap.models.device import FastPrecision, cpu_multiplies, fast_on_cpu
from raycap.models.load import load_captioner, model_here
from raycap.models.sources import find_model, settled_model
from raycap.models.vlm.vllm_requests import engine_args
from tests.support import tiny_blip
from tests.support.tiny_blip import random_pixels

_one_thread = tiny_blip.one_thread
folder = tiny_blip.folder

FAST = ModelConfig(precision="fast")
OLD: set[str] = {"avx2", "avx512_f"}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pick_device", lambda: torch.device("cpu"))


@pytest.fixture
def source(folder: Path) -> ModelSource:
    return find_model(str(folder))


def pretend(monkeypatch: pytest.MonkeyPatch, able: set[str]) -> None:
    """Let torch find a processor with these instructions."""
    found = dict.fromkeys(able, True) | {"cpu_name": "of a test"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)


@pytest.mark.parametrize(
    ("able", "of_blip", "of_others"),
    [
        (OLD, "fp32", "fp32"),
        ({"avx_vnni"}, "int8", "fp32"),
        ({"avx512_vnni"}, "int8", "fp32"),
        ({"avx512_vnni", "avx512_bf16"}, "int8", "bf16"),
        ({"avx512_bf16"}, "bf16", "bf16"),
        ({"amx_bf16"}, "bf16", "bf16"),
        ({"amx_bf16", "amx_int8"}, "int8", "bf16"),
        ({"amx_tile"}, "fp32", "fp32"),
    ],
)
def test_fast_is_the_fastest_that_processor_and_kind_support(
    able: set[str], of_blip: str, of_others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, able)
    assert fast_on_cpu(has_int8=True) == of_blip
    assert fast_on_cpu(has_int8=False) == of_others


@pytest.mark.parametrize("able", [{"avx512_vnni"}, {"avx512_bf16"}, OLD])
def test_only_fast_is_decided_and_only_once(
    source: ModelSource, able: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, able)
    settled = settled_model(FAST, source)
    assert settled == ModelConfig(precision="fast", fast_on_cpu=fast_on_cpu(has_int8=True))
    pretend(monkeypatch, {"avx512_vnni", "avx512_bf16"})
    assert settled_model(settled, source) is settled
    for asked in (ModelConfig(), ModelConfig(precision="int8"), ModelConfig(precision="bf16")):
        assert settled_model(asked, source) is asked


def test_a_run_on_another_processor_is_another_run_unless_it_is_told(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(model: ModelConfig) -> dict[str, Any]:
        config = CaptionConfig(model=settled_model(model, source))
        found: dict[str, Any] = caption_fingerprint({}, source, config)["model"]
        return found

    pretend(monkeypatch, {"avx512_vnni"})
    first = fingerprint(FAST)
    assert (first["precision"], first["fast_on_cpu"]) == ("fast", "int8")
    assert "fast_on_cpu" not in fingerprint(ModelConfig())  # runs of older versions go on
    pretend(monkeypatch, OLD)
    assert fingerprint(FAST) != first
    assert fingerprint(ModelConfig(precision="fast", fast_on_cpu="int8")) == first


def test_a_second_model_has_its_own_choice(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"avx512_vnni"})
    config = CaptionConfig.model_validate(
        {"cascade": {"model": source.folder, "below": -1.0, "precision": "fast"}}
    )
    found = find_cascade(config, find_model("stub"))
    assert found is not None
    assert found.describe()["model"]["fast_on_cpu"] == "int8"


@pytest.mark.parametrize("chosen", ["int8", "bf16", "fp32"])
def test_fast_captions_are_those_of_the_precision_that_it_means(
    source: ModelSource, chosen: FastPrecision
) -> None:
    if chosen == "int8" and not cpu_multiplies("int8"):
        pytest.skip("this processor has no 8-bit products")
    generation, images = GenerationConfig(num_beams=2), random_pixels(3)
    named = load_captioner(source, ModelConfig(precision=chosen), generation)
    fast = load_captioner(source, ModelConfig(precision="fast", fast_on_cpu=chosen), generation)
    assert fast.caption(images) == named.caption(images)


@pytest.mark.skipif(not cpu_multiplies("int8"), reason="this processor has no 8-bit products")
def test_fast_is_int8_here(source: ModelSource) -> None:
    here: Any = load_captioner(source, FAST, GenerationConfig())
    assert any(isinstance(module, Int8Linear) for module in here._model.modules())


def test_auto_stays_exact(source: ModelSource) -> None:
    generation, images = GenerationConfig(num_beams=2), random_pixels(3)
    exact = load_captioner(source, ModelConfig(precision="fp32"), generation)
    auto = load_captioner(source, ModelConfig(), generation)
    assert auto.caption(images) == exact.caption(images)


def test_compiling_is_refused_only_where_fast_means_int8(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"avx512_vnni"})
    asked = ModelConfig(precision="fast", compile=True)
    with pytest.raises(ModelError) as caught:
        load_captioner(source, asked, GenerationConfig())
    assert caught.value.setting == "model.compile"


def test_on_an_accelerator_fast_is_auto(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"avx512_vnni"})
    monkeypatch.setattr(device, "pick_device", lambda: torch.device("cuda"))
    assert model_here(source, settled_model(FAST, source)) == ModelConfig()
    compiled = ModelConfig(precision="fast", compile=True)
    assert model_here(source, compiled) == ModelConfig(compile=True)
    on_vllm = ModelConfig(precision="fast", backend="vllm")
    assert engine_args(on_vllm, 1.0, source.target)["dtype"] == "auto"


def test_8_bits_are_refused_where_the_kind_has_none() -> None:
    stub = find_model("stub")
    asked = ModelConfig(precision="fast", fast_on_cpu="int8")
    with pytest.raises(ModelError) as caught:
        load_captioner(replace(stub, kind="hybrid", name="mine"), asked, GenerationConfig())
    assert caught.value.setting == "model.fast_on_cpu"
    assert settled_model(FAST, stub) is FAST
    load_captioner(stub, FAST, GenerationConfig())
