"""BLIP in ONNX Runtime: graphs exported by torch, in fp32 and with 8-bit linear layers.

Attention is ONNX Runtime's fused operator. Its 8-bit quantization is dynamic, with one scale per
row of a weight and one scale for all activations of a batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.export import Dim

from bench.peers.graphs import DecoderStep, Encoder, contrib_attention

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


class OnnxRuntime:
    """A `Runtime`; arrays are ONNX Runtime's, and stay there."""

    def __init__(self, blip: Any, folder: Path) -> None:
        """Load the graphs of a folder.

        Args:
            blip: The network that was exported.
            folder: Written by `export` or `quantize`.
        """
        self._text = blip.config.text_config
        self._encoder, self._decoder = (_session(folder / name) for name in (ENCODER, DECODER))
        self._inputs, self._outputs = _names(self._decoder)

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Sequence[Any]:
        """Return keys and values of cross attention."""
        (name,), outputs = _names(self._encoder)
        found: Sequence[Any] = self._encoder.run_with_ort_values(outputs, {name: _value(pixels)})
        return found

    def empty_cache(self, num_rows: int) -> Sequence[Any]:
        """Return the cache before any token."""
        num_heads = self._text.num_attention_heads
        shape = (num_rows, num_heads, 0, self._text.hidden_size // num_heads)
        return [_value(torch.empty(shape))] * (2 * self._text.num_hidden_layers)

    def step(
        self,
        tokens: Int[Tensor, "b r"],
        parents: Int[Tensor, " n"],
        of_images: Sequence[Any],
        of_tokens: Sequence[Any],
    ) -> tuple[Float[Tensor, "n v"], Sequence[Any]]:
        """Return the logits and the extended cache."""
        given = [_value(tokens), _value(parents), *of_images, *of_tokens]
        fed = dict(zip(self._inputs, given, strict=True))
        logits, *cache = self._decoder.run_with_ort_values(self._outputs, fed)
        return torch.from_numpy(logits.numpy()), cache


def export(blip: Any, folder: Path) -> None:
    """Write both graphs in fp32."""
    num_images, num_rows, num_read = 2, 3, 4  # any numbers but 0 and 1, which torch takes as fixed
    text, side = blip.config.text_config, blip.config.vision_config.image_size
    pixels = torch.randn(num_images, 3, side, side)
    encoder = Encoder(blip, contrib_attention)
    batch = Dim("batch")
    _export(encoder, (pixels,), folder / ENCODER, ({0: batch},))
    count, heads = 2 * text.num_hidden_layers, text.num_attention_heads
    size = text.hidden_size // heads
    num_patches = (side // blip.config.vision_config.patch_size) ** 2 + 1
    arguments = (
        torch.zeros(num_images, num_rows, dtype=torch.long),
        torch.arange(num_images * num_rows),
        [torch.randn(num_images, heads, num_patches, size) for _ in range(count)],
        [torch.randn(num_images * num_rows, heads, num_read, size) for _ in range(count)],
    )
    automatic = Dim.AUTO  # torch relates the numbers of rows itself
    shapes = (
        {0: automatic, 1: automatic},
        {0: automatic},
        [{0: automatic}] * count,
        [{0: automatic, 2: automatic}] * count,
    )
    decoder = DecoderStep(blip, contrib_attention, contrib_attention)
    _export(decoder, arguments, folder / DECODER, shapes)


def quantize(source: Path, folder: Path) -> None:
    """Write both graphs of a folder with 8-bit linear layers into another folder."""
    import onnxruntime.quantization as quantization  # noqa: PLC0415  an optional package

    for name in (ENCODER, DECODER):
        quantization.quantize_dynamic(
            source / name,
            folder / name,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": 1},  # fp32, for outputs of fused attention
        )


def _export(module: torch.nn.Module, arguments: Any, file: Path, shapes: Any) -> None:
    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            arguments,
            str(file),
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=True,
            opset_version=20,
            verbose=False,
        )


def _session(file: Path) -> Any:
    import onnxruntime  # noqa: PLC0415  an optional package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # The search between two steps runs in torch, whose threads need the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _names(session: Any) -> tuple[list[str], list[str]]:
    return [it.name for it in session.get_inputs()], [it.name for it in session.get_outputs()]


def _value(tensor: Tensor) -> Any:
    import onnxruntime  # noqa: PLC0415  an optional package

    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.contiguous().numpy())
