"""Watches the process that decodes damaged files: it may crash, hang, or end as it has grown."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.fuzz.child import OUTCOMES, Limits, Notes, decode_range

HANG_S = 5.0
_STUCK_S = 120.0  # by the clock: waits that take no processor time
_LOOK_S = 0.25
_CHILD_INPUTS = 100_000  # that one child decodes

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Finding:
    """An input that did what none may."""

    number: int
    reason: str


@dataclass
class Outcome:
    """What a run came to."""

    counts: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    slowest: int = -1
    """The number of the input that took the most processor time."""
    peak_bytes: int = 0
    peak: int = -1
    """The number of the input that took the most memory."""
    findings: list[Finding] = field(default_factory=list)

    def note(self, notes: Notes) -> None:
        """Take over what the child has noted."""
        self.counts = dict(zip(OUTCOMES, notes.counts, strict=True))
        self.slowest_s, self.slowest = notes.slowest[0], int(notes.slowest[1])
        self.peak_bytes, self.peak = notes.peak[:]


def fuzz(
    inputs: range,
    limits: Limits,
    tell: Callable[[int, Outcome], None] = lambda _following, _outcome: None,
    pause_file: Path | None = None,
) -> Outcome:
    """Decode the inputs of those numbers, in one child process after the other.

    Args:
        inputs: their numbers.
        limits: what they are made of, and what they may take.
        tell: is called several times a second, with the number that comes next.
        pause_file: while it exists, nothing is decoded: for a machine that measures meanwhile.
    """
    notes = Notes(
        begun=_CONTEXT.RawValue("q", inputs.start - 1),
        ended=_CONTEXT.RawValue("q", inputs.start - 1),
        counts=_CONTEXT.RawArray("q", len(OUTCOMES)),
        slowest=_CONTEXT.RawArray("d", 2),
        peak=_CONTEXT.RawArray("q", 2),
    )
    outcome = Outcome()
    while (start := notes.begun.value + 1) < inputs.stop:
        told, telling = _CONTEXT.Pipe(duplex=False)
        arguments = (start, min(start + _CHILD_INPUTS, inputs.stop), limits, notes, telling)
        child = _CONTEXT.Process(target=decode_range, args=arguments, daemon=True)
        child.start()
        telling.close()  # so that reading ends when the child does
        watch = _Watch(child, notes, pause_file)
        while not watch.is_over():
            outcome.findings += _received(told, _LOOK_S)
            outcome.note(notes)
            tell(notes.begun.value + 1, outcome)
        outcome.findings += _received(told, 0)
        child.join()
        if child.exitcode and notes.begun.value < start:
            raise RuntimeError(f"the child did not begin: exit code {child.exitcode}")
        if child.exitcode:
            outcome.findings.append(Finding(notes.begun.value, watch.verdict()))
            notes.ended.value = notes.begun.value
    outcome.note(notes)
    return outcome


def _received(told: Connection, wait_s: float) -> list[Finding]:
    """Take what the child tells; wait for the first of it."""
    found: list[Finding] = []
    try:
        while told.poll(0 if found else wait_s):
            found.append(Finding(*told.recv()))
    except EOFError:
        time.sleep(wait_s)  # it is about to end
    return found


class _Watch:
    """Ends a child that hangs, and says what became of it."""

    def __init__(self, child: BaseProcess, notes: Notes, pause_file: Path | None) -> None:
        self._child = child
        self._notes = notes
        self._pause_file = pause_file
        self._hung = ""
        self._begun = -1
        self._since = time.monotonic()
        self._used_s = 0.0

    def is_over(self) -> bool:
        """Look whether the child has ended; end it where it hangs."""
        if not self._child.is_alive():
            return True
        self._pause()
        try:
            times = psutil.Process(self._child.pid).cpu_times()
        except psutil.NoSuchProcess:
            return True
        used_s = times.user + times.system
        begun = self._notes.begun.value
        if begun != self._begun or begun == self._notes.ended.value:
            self._begun, self._since, self._used_s = begun, time.monotonic(), used_s
        elif used_s - self._used_s > HANG_S or time.monotonic() - self._since > _STUCK_S:
            self._hung = f"not done after {used_s - self._used_s:.1f} s of processor time"
            self._child.kill()
            self._child.join()
            return True
        return False

    def verdict(self) -> str:
        """Say how the child ended within an input."""
        return self._hung or f"ended the process, exit code {self._child.exitcode}"

    def _pause(self) -> None:
        if self._pause_file is None or not self._pause_file.exists():
            return
        process = psutil.Process(self._child.pid)
        process.suspend()
        while self._pause_file.exists():
            time.sleep(1)
        process.resume()
        self._since = time.monotonic()
