"""The process a model runs in: its threads, its memory, and how it says that that has run out."""

import os
import resource
import sys

import psutil


def use_threads(num_threads: int) -> None:
    """Give CPU arithmetic that many threads.

    Ray sets OMP_NUM_THREADS to the CPUs that a worker reserved, which is too few for a model that
    has the machine to itself. Works before torch is imported, and after.
    """
    # Threads that spin for long while they wait take the cores from those that decode the next
    # images; those that do not spin at all are slow to wake. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["MKL_NUM_THREADS"] = str(num_threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def peak_memory_bytes() -> int:
    """The most that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def spare_memory_bytes() -> int:
    """What this machine could still give without swapping."""
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a smaller batch may succeed."""
    # torch's class by name, so that a captioner without torch need not import it; on a CPU torch
    # raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
