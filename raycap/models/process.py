"""The threads and memory of a model's process.

Imports no torch: the number of threads must be set before torch is imported, and a driver or a stub
does without torch.
"""

import os
import resource
import sys

import psutil


def use_threads(num_threads: int) -> None:
    """Set the number of threads for computation on the CPU, before or after torch is imported.

    Ray sets OMP_NUM_THREADS to the CPUs that a worker reserves, which is too few for a model that
    has the machine to itself.
    """
    # Waiting threads that spin for long take cores from threads that decode the next images;
    # threads that do not spin are slow to wake. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["MKL_NUM_THREADS"] = str(num_threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def peak_memory_bytes() -> int:
    """Return the peak memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def spare_memory_bytes() -> int:
    """Return the memory that this machine can provide without swapping."""
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, so that a smaller batch may succeed."""
    # torch's class by name, so that a captioner without torch does not import it. On a CPU torch
    # raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
