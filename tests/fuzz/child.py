"""The process that decodes damaged files, one after the other, and notes what it is about to do.

It may crash, hang or grow: whoever started it sees from the shared notes at which input that was.
"""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.decoding import Target, decode, prepare_process
from tests.fuzz.mutations import mutated

TARGET = Target(width_px=40, height_px=32)
FAILED = "failed otherwise"
OUTCOMES = ("decoded", *(str(code) for code in ErrorCode), FAILED)
_ADDRESS_SPACE_BYTES = 3 * 2**30  # beyond what the process has at its start


@dataclass(frozen=True)
class Limits:
    """What is decoded, and what an input may take."""

    seeds: Sequence[bytes]
    seed: int
    max_pixels: int
    memory_bytes: int
    """The peak of resident memory above that before the first input."""


@dataclass(frozen=True)
class Notes:
    """What parent and child share, in memory that outlives the child."""

    begun: Any
    """The last input that was begun."""
    ended: Any
    """The last input that was answered, one way or the other."""
    counts: Any
    """Inputs by outcome, in the order of OUTCOMES."""
    slowest: Any
    """Seconds of processor time that the slowest took, and its number."""
    peak: Any
    """The highest peak of memory above the start, in bytes, and the number that made it."""


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decode_range(start: int, stop: int, limits: Limits, notes: Notes, told: Connection) -> None:
    """Decode inputs, and tell those that raise what they must not, or make the process grow."""
    config = ImageConfig(max_pixels=limits.max_pixels)
    prepare_process(config)
    for sound in limits.seeds:
        _outcome(sound, config)  # what libraries keep once they were used is no input's fault
    _limit_address_space()
    _silence()
    base = peak_bytes()
    for number in range(start, stop):
        data = mutated(limits.seeds, limits.seed, number)
        notes.begun.value = number
        began = time.process_time()
        outcome, reason = _outcome(data, config)
        seconds = time.process_time() - began
        notes.counts[OUTCOMES.index(outcome)] += 1
        notes.ended.value = number
        if outcome == FAILED:
            told.send((number, reason))
        if seconds > notes.slowest[0]:
            notes.slowest[:] = seconds, number
        growth = peak_bytes() - base
        if growth > notes.peak[0]:
            notes.peak[:] = growth, number
        if growth > limits.memory_bytes:
            told.send((number, f"took {growth / 1e6:,.0f} MB"))
            return  # the next child starts small again


def _outcome(data: bytes, config: ImageConfig) -> tuple[str, str]:
    try:
        decode(data, TARGET, config)
    except ImageError as error:
        return str(error.code), ""
    except Exception as error:  # noqa: BLE001 - whatever else is raised is what is looked for
        return FAILED, f"raised {type(error).__name__}: {error}"
    return OUTCOMES[0], ""


def _limit_address_space() -> None:
    """Let an allocation fail before it harms the machine: far above what any input may take."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _silence() -> None:
    """Drop what libtiff writes to the standard error stream about each damaged file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
