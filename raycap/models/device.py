"""Where a model runs, and in which arithmetic."""

from typing import Literal

import torch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """Choose the accelerator if the machine has one, otherwise the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def pick_dtype(
    precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> torch.dtype:
    """Choose the arithmetic: for `auto` bf16 or else fp16 on an accelerator, fp32 on a CPU."""
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if _has_bf16(device) else torch.float16


def peak_device_bytes(device: torch.device) -> int:
    """The most that this process has held of an accelerator's memory; 0 on a CPU."""
    if device.type == "cpu":
        return 0
    return int(torch.accelerator.max_memory_allocated(device))


def _has_bf16(device: torch.device) -> bool:
    check = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    if check is None:
        return False
    # CUDA and XPU also say yes where bf16 is emulated, which is slower than fp16.
    emulates = device.type in ("cuda", "xpu")
    return bool(check(including_emulation=False) if emulates else check())
