"""Captioners trained from scratch on the accelerator against the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raycap.config import ModelConfig
from raycap.models.scratch import captioner as scratch_captioner
from raycap.models.scratch.captioner import HybridCaptioner, load_scratch_captioner
from tests.support.tiny_scratch import (
    BEAMS,
    CAPTIONS,
    GREEDY,
    KINDS,
    build,
    fit,
    images,
    loss_of,
    tensor,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator"),
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build(request.param, num_layers=1)
    fit(model, images())
    path = tmp_path_factory.mktemp(request.param)
    model.save(path, BEAMS, {})
    return path


@pytest.mark.parametrize("generation", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_captions_equal_those_of_the_cpu(
    folder: Path, generation: object, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate({"precision": precision})
    settings = BEAMS if generation is BEAMS else GREEDY
    there = load_scratch_captioner(folder, model, settings)
    assert there._model.device.type != "cpu"
    found = there.caption(images())
    monkeypatch.setattr(scratch_captioner, "pick_device", lambda: torch.device("cpu"))
    here = load_scratch_captioner(folder, ModelConfig(precision="fp32"), settings).caption(images())
    assert [one.text for one in found] == [one.text for one in here] == CAPTIONS
    assert [one.logprob for one in found] == pytest.approx(
        [one.logprob for one in here], abs=1e-2 if precision == "fp32" else 5e-2
    )
    if isinstance(there, HybridCaptioner):
        for _, weights in there._attend(images()):
            np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_moved_trains_captions_and_saves(kind: str, tmp_path: Path) -> None:
    """As training does it: the network goes to the device after the model is built."""
    model = build(kind, dropout=0.1)
    device = torch.accelerator.current_accelerator()
    assert device is not None
    model.network.to(device).train()
    batch = model.encode(CAPTIONS)
    with torch.autocast(device.type, torch.bfloat16):
        logits = model.network(
            tensor(images()).to(device), batch.inputs.to(device), batch.mask.to(device)
        )
    torch.autograd.backward(logits.float().square().mean())
    assert all(value.grad is not None for value in model.network.parameters())
    assert len(model.captioner(BEAMS).caption(images())) == 4
    model.save(tmp_path, BEAMS, {})
    model.network.to("cpu").eval()
    loaded = load_scratch_captioner(tmp_path, ModelConfig(precision="fp32"), GREEDY)
    assert len(loaded.caption(images())) == 4
    assert torch.isfinite(loss_of(model, tensor(images()), CAPTIONS))
