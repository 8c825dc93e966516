"""Linear layers at the speed of the faster of two libraries, where torch itself does not choose."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Measured on AMD EPYC with AVX-512, in fp32: oneDNN is 1.1 to 1.2 times as fast as the BLAS from
# 1,150 rows, and up to 2 times below 64; in between it loses a tenth, for it arranges the weights
# anew at every call.
_FEW_ROWS = 64
_MANY_ROWS = 1024
_backend: Any = torch.backends.mkldnn  # untyped there
_ONEDNN: Any = torch.ops.mkldnn._linear_pointwise if _backend.is_available() else None


def apply_linear(module: Any, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
    """Compute `module(states)`, up to rounding.

    Args:
        module: Any; what is not a plain `nn.Linear`, such as one with low-rank updates, is called.
        states: Contiguous.
    """
    num_rows = states.numel() // states.shape[-1]
    if _is_plain(module, states) and not _FEW_ROWS < num_rows < _MANY_ROWS:
        found: Tensor = _ONEDNN(states, module.weight, module.bias, "none", [], "")
        return found
    called: Tensor = module(states)
    return called


def _is_plain(module: Any, states: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and type(module) is nn.Linear
        and states.device.type == "cpu"
        and states.dtype == module.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
        # torch.compile knows oneDNN's layers with constant weights only
        and not torch.compiler.is_compiling()
    )
