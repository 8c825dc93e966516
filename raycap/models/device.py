"""The device and precision of a model."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
FastPrecision = Literal["int8", "bf16", "fp32"]

# Without the first ones oneDNN adds pairs of 8-bit products in 16 bits, which can overflow. Without
# the second ones bf16 is emulated.
_INSTRUCTIONS = {
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
    "bf16": ("avx512_bf16", "amx_bf16"),
}

_streams = threading.local()
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerators:
    """The accelerators that torch finds on a machine."""

    devices: list[str]
    """Their names, with their memory."""
    build: str
    """The platform that torch is built for."""
    is_built_for_one: bool
    """Whether that platform is an accelerator."""


def describe_accelerators() -> Accelerators:
    """List the accelerators that torch finds."""
    built = torch.accelerator.current_accelerator(check_available=False)
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    cuda = torch.version.cuda
    return Accelerators(
        devices=[_describe(built, index) for index in range(count) if built is not None],
        build=f"CUDA {cuda}" if cuda else built.type if built is not None else "CPUs",
        is_built_for_one=built is not None,
    )


def _describe(kind: torch.device, index: int) -> str:
    module = torch.get_device_module(kind)
    if not hasattr(module, "get_device_properties"):
        return f"{kind.type}:{index}"
    found = module.get_device_properties(index)
    memory_bytes = getattr(found, "total_memory", 0)
    return f"{kind.type}:{index} {found.name}, {memory_bytes / 1e9:.0f} GB"


def pick_device() -> torch.device:
    """Return the accelerator if the machine has one, otherwise the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the data type; for `auto` fp32 on a CPU, otherwise bf16, or fp16 without bf16."""
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if _has_bf16(device) else torch.float16


def cpu_multiplies(numbers: Literal["int8", "bf16"]) -> bool:
    """Whether this machine's CPU has fast and exact products of these numbers."""
    able: Mapping[str, Any] = torch.cpu.get_capabilities()
    return any(able.get(name) for name in _INSTRUCTIONS[numbers])


def fast_on_cpu(*, has_int8: bool) -> FastPrecision:
    """Return what `model.precision=fast` means on this machine's CPU.

    The order is that of the measured speeds of BLIP: docs/performance.md, "Fewer bits".

    Args:
        has_int8: Whether the kind of model supports int8.
    """
    if has_int8 and cpu_multiplies("int8"):
        return "int8"
    return "bf16" if cpu_multiplies("bf16") else "fp32"


def upload(pixels: UInt8[np.ndarray, "b h w 3"], device: torch.device) -> UInt8[Tensor, "b h w 3"]:
    """Copy pixels to a device as bytes, a quarter of the size of floats.

    For an accelerator they are copied from pinned memory, so that the host does not wait.
    """
    if device.type == "cpu":
        return torch.tensor(pixels)
    host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
    host.numpy()[...] = pixels
    return host.to(device, non_blocking=True)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Run this thread's work on an accelerator concurrently with that of other threads.

    It starts after earlier work of this thread. Read the results within the `with` block.
    """
    if device.type == "cpu":
        yield
        return
    streams: dict[torch.device, torch.Stream] = vars(_streams).setdefault("of", {})
    if device not in streams:
        streams[device] = torch.Stream(device)
    stream = streams[device]
    stream.wait_stream(torch.accelerator.current_stream(device))
    with stream:
        yield


def peak_device_bytes(device: torch.device) -> int:
    """Return the peak accelerator memory of this process; 0 on a CPU."""
    if device.type == "cpu":
        return 0
    return int(torch.accelerator.max_memory_allocated(device))


def _has_bf16(device: torch.device) -> bool:
    check = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    if check is None:
        return False
    # CUDA and XPU also report emulated bf16, which is slower than fp16.
    emulates = device.type in ("cuda", "xpu")
    return bool(check(including_emulation=False) if emulates else check())
