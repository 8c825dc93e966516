"""BLIP in OpenVINO, converted from torch: fp32, bf16, and two kinds of 8 bits.

- 8-bit weights (`nncf.compress_weights`): activations are rounded to 8 bits at run time, in groups.
- 8-bit weights and activations (`nncf.quantize`): the ranges of activations are fixed, found by
  captioning a batch. Captions do not depend on others, but get worse for images unlike that batch.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.peers.decoding import GraphState, search
from bench.peers.graphs import DecoderStep, Encoder, one_query_attention, torch_attention


class OpenVino:
    """A `Runtime`; arrays are OpenVINO's, and stay there."""

    def __init__(self, blip: Any, models: Sequence[Any], precision: str = "f32") -> None:
        """Compile the graphs.

        Args:
            blip: The network that was converted.
            models: Encoder and decoder.
            precision: Of everything that is not 8-bit: `f32` or `bf16`.
        """
        import openvino  # noqa: PLC0415  an optional package

        self._text = blip.config.text_config
        self._core = openvino.Core()
        hints = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        encoder, decoder = (self._core.compile_model(model, "CPU", hints) for model in models)
        self._encoder = encoder.create_infer_request()
        # Two that take turns: the cache that one has written is read by the other, without a copy.
        requests = [decoder.create_infer_request() for _ in range(2)]
        self._requests = itertools.cycle(requests)
        self.fed: list[list[Any]] | None = None
        """Inputs of the decoder, if set to a list."""

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Sequence[Any]:
        """Return keys and values of cross attention."""
        return _infer(self._encoder, [_tensor(pixels)])

    def empty_cache(self, num_rows: int) -> Sequence[Any]:
        """Return the cache before any token."""
        num_heads = self._text.num_attention_heads
        shape = (num_rows, num_heads, 0, self._text.hidden_size // num_heads)
        return [_tensor(torch.empty(shape))] * (2 * self._text.num_hidden_layers)

    def step(
        self,
        tokens: Int[Tensor, "b r"],
        parents: Int[Tensor, " n"],
        of_images: Sequence[Any],
        of_tokens: Sequence[Any],
    ) -> tuple[Float[Tensor, "n v"], Sequence[Any]]:
        """Return the logits and the extended cache."""
        given = [_tensor(tokens), _tensor(parents), *of_images, *of_tokens]
        if self.fed is not None:
            changing = [it.data.copy() for it in [*given[:2], *of_tokens]]
            self.fed.append([*changing[:2], *(it.data for it in of_images), *changing[2:]])
        logits, *cache = _infer(next(self._requests), given)
        return torch.from_numpy(logits.data), cache


def convert(blip: Any) -> list[Any]:
    """Return OpenVINO's models of both graphs, in fp32."""
    import openvino  # noqa: PLC0415  an optional package

    text, vision = blip.config.text_config, blip.config.vision_config
    num_heads, count = text.num_attention_heads, 2 * text.num_hidden_layers
    size, num_patches = text.hidden_size // num_heads, (vision.image_size // vision.patch_size) ** 2
    arguments = (
        torch.zeros(2, 3, dtype=torch.long),
        torch.arange(6),
        tuple(torch.randn(2, num_heads, num_patches + 1, size) for _ in range(count)),
        tuple(torch.randn(6, num_heads, 4, size) for _ in range(count)),
    )
    pixels = torch.randn(2, 3, vision.image_size, vision.image_size)
    with torch.no_grad():
        encoder = openvino.convert_model(
            Encoder(blip, torch_attention).eval(), example_input=(pixels,)
        )
        decoder = openvino.convert_model(
            DecoderStep(blip, torch_attention, one_query_attention).eval(), example_input=arguments
        )
    return [encoder, decoder]


def with_small_weights(models: Sequence[Any]) -> list[Any]:
    """Return the models with 8-bit weights."""
    import nncf  # noqa: PLC0415  an optional package

    mode = nncf.CompressWeightsMode.INT8_SYM
    return [nncf.compress_weights(model, mode=mode) for model in models]


def quantized(blip: Any, models: Sequence[Any]) -> list[Any]:
    """Return the models with 8-bit weights and activations, fitted to a random batch."""
    import nncf  # noqa: PLC0415  an optional package

    side = blip.config.vision_config.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    runtime = OpenVino(blip, models)
    runtime.fed = []
    search(blip, lambda batch: GraphState(runtime, batch), pixels, num_beams=3)
    samples: list[list[Any]] = [[[pixels.numpy()]], runtime.fed[1:]]
    return [
        nncf.quantize(
            model,
            nncf.Dataset(fed),
            subset_size=len(fed),
            model_type=nncf.ModelType.TRANSFORMER,
        )
        for model, fed in zip(models, samples, strict=True)
    ]


def _infer(request: Any, given: Sequence[Any]) -> list[Any]:
    for number, tensor in enumerate(given):
        request.set_input_tensor(number, tensor)
    request.infer()
    return list(request.output_tensors)


def _tensor(tensor: Tensor) -> Any:
    import openvino  # noqa: PLC0415  an optional package

    array: np.ndarray = tensor.contiguous().numpy()
    return openvino.Tensor(array, shared_memory=bool(array.size))
