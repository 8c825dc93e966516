"""The peers: how each is built from a network."""

import copy
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bench.peers import onnx_runtime, openvino_runtime
from bench.peers.decoding import Captions, GraphState, Runtime, raycap_state, search
from bench.peers.generate import Generate, GenerateStatic, compiled
from raycap.models.blip.int8 import quantize
from raycap.models.blip.packed import pack


class Program(Protocol):
    """Captions normalised pixels."""

    def caption(self, pixels: Float[Tensor, "b 3 h w"], num_beams: int) -> Captions:
        """Return the tokens of each image's best caption."""

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> object:
        """Do what happens once per image, before the first token."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A `Program` of raycap's search on a state."""

    blip: Any
    state: Callable[[Tensor], Any]

    def caption(self, pixels: Float[Tensor, "b 3 h w"], num_beams: int) -> Captions:
        """Return the tokens of each image's best caption."""
        return search(self.blip, self.state, pixels, num_beams)

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> object:
        """Encode the images, and compute the keys and values of cross attention."""
        with torch.inference_mode():
            return self.state(pixels)


class Peer(NamedTuple):
    """A program to compare with raycap."""

    name: str
    precision: str
    """raycap's `model.precision` to compare with."""
    build: Callable[[Any, Path], Program]
    """Builds it from a network and a folder for its files."""
    packages: Sequence[str] = ()
    """Optional packages that it imports."""


def raycap(blip: Any, precision: str) -> Program:
    """Return raycap at a precision."""
    blip = copy.deepcopy(blip)
    if precision == "int8":
        quantize(blip)
    else:
        pack(blip.to(torch.bfloat16) if precision == "bf16" else blip)
    return Searched(blip, partial(raycap_state, blip))


def missing(peer: Peer) -> str | None:
    """Return why a peer cannot be imported, if so."""
    for package in peer.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            is_absent = isinstance(error, ModuleNotFoundError) and error.name == package
            return f"{package} is not installed" if is_absent else f"{package}: {error}"
    return None


def _on(blip: Any, runtime: Runtime) -> Program:
    return Searched(blip, partial(GraphState, runtime))


def _continuous_batching(blip: Any, _: Path) -> Program:
    raise NotImplementedError("generate_batch() takes lists of tokens and no images")


def _onnx(blip: Any, folder: Path) -> Program:
    return _on(blip, onnx_runtime.OnnxRuntime(blip, _exported(blip, folder)))


def _onnx_int8(blip: Any, folder: Path) -> Program:
    small = folder / "onnx-int8"
    small.mkdir(exist_ok=True)
    onnx_runtime.quantize(_exported(blip, folder), small)
    return _on(blip, onnx_runtime.OnnxRuntime(blip, small))


def _exported(blip: Any, folder: Path) -> Path:
    exported = folder / "onnx"
    if not exported.exists():
        exported.mkdir()
        onnx_runtime.export(blip, exported)
    return exported


def _openvino(precision: str) -> Callable[[Any, Path], Program]:
    def build(blip: Any, _: Path) -> Program:
        models = openvino_runtime.convert(blip)
        return _on(blip, openvino_runtime.OpenVino(blip, models, precision))

    return build


def _openvino_weights(blip: Any, _: Path) -> Program:
    logging.getLogger("nncf").setLevel(logging.ERROR)
    models = openvino_runtime.with_small_weights(openvino_runtime.convert(blip))
    return _on(blip, openvino_runtime.OpenVino(blip, models))


def _openvino_int8(blip: Any, _: Path) -> Program:
    logging.getLogger("nncf").setLevel(logging.ERROR)
    models = openvino_runtime.quantized(blip, openvino_runtime.convert(blip))
    return _on(blip, openvino_runtime.OpenVino(blip, models))


_ONNX = ("onnx", "onnxscript", "onnxruntime")

PEERS = [
    Peer("generate", "fp32", lambda blip, _: Generate(blip)),
    Peer("generate-compiled", "fp32", lambda blip, _: Generate(compiled(blip, dynamic=True))),
    Peer("generate-static", "fp32", lambda blip, _: Generate(blip, cache_implementation="static")),
    Peer("generate-static-by-hand", "fp32", lambda blip, _: GenerateStatic(blip)),
    Peer(
        "generate-static-compiled",
        "fp32",
        lambda blip, _: GenerateStatic(compiled(blip, dynamic=False)),
    ),
    Peer("continuous-batching", "fp32", _continuous_batching),
    Peer("onnxruntime", "fp32", _onnx, _ONNX),
    Peer("openvino", "fp32", _openvino("f32"), ("openvino",)),
    Peer("openvino-bf16", "bf16", _openvino("bf16"), ("openvino",)),
    Peer("onnxruntime-int8", "int8", _onnx_int8, _ONNX),
    Peer("openvino-int8-weights", "int8", _openvino_weights, ("openvino", "nncf")),
    Peer("openvino-int8", "int8", _openvino_int8, ("openvino", "nncf")),
]
