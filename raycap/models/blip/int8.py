"""Linear layers in 8-bit integers, for CPUs that multiply those faster than floats.

Weights have one scale per row of the matrix, computed once; inputs have one scale per token or
patch, computed on the fly ("vector-wise" in Dettmers et al. 2022, arXiv:2208.07339, without its
float outliers). torch's dynamic quantization uses one scale for the whole input; then a caption
would depend on the rest of its batch. The products are exact integers; bias and scales are applied
in fp32.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raycap.errors import ModelError
from raycap.models.device import cpu_multiplies

_CHUNK_ROWS = 577  # fits into the caches; measured between 128 and 1,154 rows
_MOST = 127
_ZERO = 128
_TINY = 1e-12
_ops: Any = torch.ops.onednn


def check_int8(device: torch.device) -> None:
    """Check that the device computes 8-bit products quickly and exactly.

    Raises:
        ModelError: it does not.
    """
    if device.type != "cpu":
        raise ModelError(
            f"model.precision=int8 is for CPUs, and the model runs on {device.type}: set "
            "model.precision=auto",
            setting="model.precision",
        )
    if not cpu_multiplies("int8"):
        raise ModelError(
            "model.precision=int8 needs a CPU that multiplies 8-bit integers (AVX-512 VNNI, "
            "AVX-VNNI or AMX), and this one does not: set model.precision=auto",
            setting="model.precision",
        )


def quantize(network: nn.Module) -> None:
    """Replace all linear layers by 8-bit ones.

    Args:
        network: In fp32, on the CPU. Its other layers, such as embeddings, do not change.
    """
    for name, child in list(network.named_children()):
        if type(child) is nn.Linear:
            setattr(network, name, Int8Linear(child))
        else:
            quantize(child)


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).div(_MOST).clamp(min=_TINY)
        codes = (weight / scales[:, None]).round().to(torch.int8)
        self.out_features = linear.out_features
        # Not buffers: they are packed for this CPU and useless elsewhere.
        self._packed = _ops.qlinear_prepack(codes, None)
        self._scales = scales
        self._zeros = torch.zeros(len(scales), dtype=torch.int64)
        bias: Tensor | None = linear.bias  # torch types it as never None
        self._bias = scales.new_zeros(len(scales)) if bias is None else bias.detach()

    def forward(self, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Apply the layer, up to the rounding to 8 bits."""
        rows = states.reshape(-1, states.shape[-1])
        products = rows.new_empty(len(rows), self.out_features)
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            self._multiply(rows[chunk], products[chunk])
        return products.view(*states.shape[:-1], self.out_features)

    def _multiply(self, rows: Float[Tensor, "m i"], products: Float[Tensor, "m o"]) -> None:
        scales = rows.abs().amax(1, keepdim=True).div_(_MOST).clamp_(min=_TINY)
        # Unsigned, as the instructions require for one of the two factors.
        codes = (rows / scales).round_().add_(_ZERO).to(torch.uint8)
        whole = _ops.qlinear_pointwise(
            codes, 1.0, _ZERO, self._packed, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        torch.addcmul(self._bias, whole, scales, out=products)
