"""torch.compile for arithmetic of a few fixed shapes, with CUDA graphs where there is CUDA."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from raycap.errors import ModelError

_MAX_SHAPES = 64
"""Shapes that a function may be compiled for. torch stops at 8, which batches of every power of two
and a few lengths of captions exceed; ours are bounded by how they are rounded up."""
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def compile_fixed(
    function: Callable[_Params, _Result], device: torch.device, backend: str = "inductor"
) -> Callable[_Params, _Result]:
    """Compile a function once for each shape of its arguments, at the first call with it.

    On CUDA it is recorded as a CUDA graph. What it returns is then overwritten by the next call of
    anything compiled: copy what is to live longer.

    Args:
        function: Compiled as a whole; what torch cannot compile in it is an error.
        device: Where its tensors are.
        backend: What torch.compile hands the arithmetic to; `eager` runs it as it is.
    """
    records = device.type == "cuda" and backend == "inductor"
    compiled = torch.compile(
        function,
        fullgraph=True,
        dynamic=False,
        backend=backend,
        mode="reduce-overhead" if records else None,
    )

    @functools.wraps(function)
    def call(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        torch_compiler: Any = torch.compiler  # untyped there
        if records:
            # Says that what earlier calls returned is no longer needed.
            torch_compiler.cudagraph_mark_step_begin()
        settings: Any = torch._dynamo.config  # as well; and imported when first used
        with settings.patch(recompile_limit=_MAX_SHAPES):
            return compiled(*args, **kwargs)

    return call


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is told before any image is read.

    Raises:
        ModelError: torch.compile does not work here.
    """
    try:
        compile_fixed(_something, device)(torch.ones(16, device=device))
    except Exception as error:
        tool = "a C++ compiler such as g++" if device.type == "cpu" else "triton and a C compiler"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"model.compile=true: torch.compile does not work on this machine's {device.type}: "
            f"install {tool}, or leave the setting off ({reason})"
        ) from error


def _something(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return numbers.sin() * numbers + 1.0
