"""What decoding one file costs: in a process of its own, under a limit, measured."""

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from raycap.config import ImageConfig
from raycap.errors import ImageError
from raycap.images import Target, decode, prepare_process

_ADDRESS_SPACE_BYTES = 12 * 2**30
"""So that a bomb ends its own process at the worst."""


@dataclass(frozen=True)
class Cost:
    """How it went."""

    answer: str
    """The error's code and message, or the size of the image."""
    seconds: float
    """Of processor time, of all threads."""
    megabytes: float
    """The peak of resident memory above that before."""


def cost_of(data: bytes, config: ImageConfig) -> Cost:
    """Decode a file in a fresh process as the load stage does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_decode, data, config).result(timeout=120)


def _decode(data: bytes, config: ImageConfig) -> Cost:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    prepare_process(config)
    before, began = _peak_mb(), time.process_time()
    try:
        image = decode(data, Target(width_px=384, height_px=384), config)
        answer = f"{image.width_px}x{image.height_px}"
    except ImageError as error:
        answer = str(error)
    return Cost(answer, time.process_time() - began, _peak_mb() - before)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
