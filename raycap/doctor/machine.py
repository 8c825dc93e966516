"""This machine: Python and packages, cores, accelerators, memory, shared memory, disk."""

import os
import platform
import shutil
import tempfile
from importlib.metadata import version

import psutil

from raycap.doctor.check import Check, Checks, Verdict
from raycap.models.device import describe_accelerators
from raycap.records import versions

_GB = 1e9
_LEAST_MEMORY_GB = 4.0
_LEAST_DISK_GB = 10.0
_SHARED_SHARE = 0.3  # of memory: what Ray takes for its object store
_SHARED = "/dev/shm"  # noqa: S108  the system's own name


def check_machine() -> Checks:
    """Look at this machine. Imports torch, which takes seconds."""
    yield _python()
    yield _cores()
    yield _accelerators()
    yield _memory()
    if os.path.isdir(_SHARED):
        yield _shared_memory()
    yield _disk()


def _python() -> Check:
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    found = f"Python {platform.python_version()}, {named}, torchvision {version('torchvision')}"
    return Check(name="software", verdict=Verdict.WELL, found=found)


def _cores() -> Check:
    usable, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{usable} of {all_cores} cores"
    if usable < all_cores:
        remedy = "Ray counts all cores, this process may use fewer: start it with --num-cpus"
        return Check(name="cores", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="cores", verdict=Verdict.WELL, found=found)


def _accelerators() -> Check:
    found = describe_accelerators()
    if found.devices:
        return Check(name="accelerators", verdict=Verdict.WELL, found="; ".join(found.devices))
    if found.is_built_for_one and shutil.which("nvidia-smi"):
        return Check(
            name="accelerators",
            verdict=Verdict.FAILED,
            found=f"there is a GPU driver, and torch ({found.build}) sees no GPU",
            remedy="install a torch whose CUDA the driver knows (see `nvidia-smi`), and give the "
            "container its GPUs (`--gpus all`)",
        )
    return Check(
        name="accelerators",
        verdict=Verdict.POOR,
        found=f"none (torch is built for {found.build})",
        remedy="BLIP-base takes a second or so an image on CPU cores; a GPU does hundreds a second",
    )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free"
    if memory.available / _GB < _LEAST_MEMORY_GB:
        remedy = "BLIP-base and Ray need some 4 GB: end other programs, or take a larger machine"
        return Check(name="memory", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="memory", verdict=Verdict.WELL, found=found)


def _shared_memory() -> Check:
    size = shutil.disk_usage(_SHARED).total
    wanted = _SHARED_SHARE * psutil.virtual_memory().total
    found = f"{size / _GB:.1f} GB"
    if size < wanted:
        return Check(
            name="shared memory",
            verdict=Verdict.POOR,
            found=found,
            remedy="Ray's object store goes to disk, which is slow: in a container give "
            f"--shm-size={wanted / _GB:.0f}g (Kubernetes: an emptyDir in Memory at {_SHARED})",
        )
    return Check(name="shared memory", verdict=Verdict.WELL, found=found)


def _disk() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / _GB
    found = f"{free:.0f} GB free at {folder}"
    if free < _LEAST_DISK_GB:
        remedy = "Ray spills and logs there: free some, or let RAY_TMPDIR name another disk"
        return Check(name="disk", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="disk", verdict=Verdict.WELL, found=found)
