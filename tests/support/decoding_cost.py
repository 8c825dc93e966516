"""What decoding one file costs: in a process of its own, under a limit, measured."""

import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from raycap.config import ImageConfig
from raycap.errors import ImageError
from raycap.images.decoding import Target, decode, prepare_process

_ADDRESS_SPACE_BYTES = 12 * 2**30
_HANG_S = 20  # of processor time; what comes near it is far from the few seconds that are right


@dataclass(frozen=True)
class Cost:
    """How it went."""

    answer: str
    """The error's code and message, or the size of the image."""
    megabytes: float
    """The peak of resident memory above that before."""


def cost_of(data: bytes, config: ImageConfig) -> Cost:
    """Decode a file in a fresh process as the load stage does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_decode, data, config).result(timeout=120)


def _decode(data: bytes, config: ImageConfig) -> Cost:
    # A bomb ends its own process at the worst, which fails the test.
    resource.setrlimit(resource.RLIMIT_CPU, (_HANG_S, _HANG_S))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    prepare_process(config)
    before = _peak_mb()
    try:
        image = decode(data, Target(width_px=384, height_px=384), config)
        answer = f"{image.width_px}x{image.height_px}"
    except ImageError as error:
        answer = str(error)
    return Cost(answer, _peak_mb() - before)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
