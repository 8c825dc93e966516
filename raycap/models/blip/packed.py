"""Linear layers whose weights oneDNN has rearranged once, for inference on a CPU.

oneDNN stores weights in an order of its own, and rearranges plain weights at every call. With the
few rows of a decoding step, that takes as long as the product itself: a packed layer is 1.2 to 1.3
times as fast with 24 rows, and twice as fast with 3 (docs/LOG.md). In bf16 the results are the same
to the bit; in fp32 they differ by rounding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_backend: Any = torch.backends.mkldnn  # untyped there
ONEDNN: Any = torch.ops.mkldnn._linear_pointwise if _backend.is_available() else None
"""oneDNN's product with weights, plain or packed; None if this build of torch has none."""

_FEW_ROWS = 24  # the order that oneDNN chooses hardly depends on it
_ops: Any = torch.ops.mkldnn


def pack(network: nn.Module) -> None:
    """Replace all linear layers by packed ones; do nothing where there is no oneDNN for them.

    Args:
        network: Its layers do not change on other devices than a CPU, in other types than fp32 and
            bf16, or in bf16 on a CPU for which oneDNN has none.
    """
    if ONEDNN is None:
        return
    for name, child in list(network.named_children()):
        if type(child) is not nn.Linear:
            pack(child)
        elif child.weight.device.type == "cpu" and _has_products(child.weight.dtype):
            setattr(network, name, PackedLinear(child))


def _has_products(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(_ops._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """A linear layer for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        # Not a buffer: it is packed for this CPU and useless elsewhere.
        self._packed = _ops._reorder_linear_weight(linear.weight.detach(), _FEW_ROWS)
        bias: Tensor | None = linear.bias  # torch types it as never None
        self._bias = None if bias is None else bias.detach()

    def forward(self, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Apply the layer to contiguous states."""
        found: Tensor = ONEDNN(states, self._packed, self._bias, "none", [], "")
        return found

    def gelu(self, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Apply the layer, then GELU; in fp32 as one operation, with the same result to the bit."""
        if states.dtype != torch.float32:
            return functional.gelu(self(states))
        found: Tensor = ONEDNN(states, self._packed, self._bias, "gelu", [], "none")
        return found
