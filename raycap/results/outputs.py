"""State and completeness of the outputs of every command but `raycap caption`, which has its own.

`captioning.OutputStatus` and `captioning.Verification` describe an output of `raycap caption`: it
has rows to count. The types here describe the others, by the pieces that their work consists of.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from raycap.results.display import Displayed


class OutputKind(StrEnum):
    """What an output is: the command that wrote it."""

    CAPTIONS = "captions"
    """Of `raycap caption`."""
    DATASET = "dataset"
    """Of `raycap prepare`."""
    EVALUATION = "evaluation"
    """Of `raycap evaluate`."""
    TRAINING = "training"
    """Of `raycap train`."""
    SEARCH = "search"
    """Of `raycap tune`."""
    STUDY = "study"
    """Of `raycap study`."""
    CALIBRATION = "calibration"
    """Of `raycap calibrate`."""


class State(StrEnum):
    """State of an output; those of a captioning output have two more (`silent`, `starting`)."""

    COMPLETE = "complete"
    RUNNING = "running"
    STOPPED = "stopped"
    """Not complete, and no process writes to it: the same command continues it."""
    UNKNOWN = "unknown"
    """Not complete. Whether a process writes to it cannot be seen from here."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkStatus(Displayed):
    """State of an output, and how far its work is."""

    kind: OutputKind
    output: str
    """Its address."""
    state: State
    unit: str
    """What is counted: `epochs`, `trials`, `systems`, `settings`, `images`."""
    num_done: int
    """Ended pieces, failed ones included."""
    num_total: int | None
    """Planned pieces; None if the number is not known before the end."""
    num_failed: int = 0
    best: str = ""
    """The best piece so far, and its score; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Completeness(Displayed):
    """Whether an output is complete, and what is wrong with it."""

    status: WorkStatus
    problems: list[str] = field(default_factory=list)
    """Missing or contradicting files, one line each."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem; the work may still be unfinished."""
        return not self.problems

    @property
    def is_complete(self) -> bool:
        """Whether the work has ended, and there is no problem."""
        return self.is_sound and self.status.state is State.COMPLETE
