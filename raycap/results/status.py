"""Status of one trial of a search, or of one system of a study, and the record of either."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from raycap.results.display import Displayed


class Status(StrEnum):
    """Status of a trial or system."""

    WAITING = "waiting"
    RUNNING = "running"
    """Begun, and either still running or interrupted."""
    FINISHED = "finished"
    STOPPED = "stopped"
    """Ended early by the search, because others were better."""
    FAILED = "failed"
    """Ended by an error; `reason` describes it."""


class HasStatus(Protocol):
    """A trial or system."""

    @property
    def status(self) -> Status:
        """Its status."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ExperimentRecord(Displayed):
    """What the records of a search and of a study have in common, finished or not."""

    output: str
    dataset: str
    best: str | None
    """Name of the best trial or system; None before one has a value."""
    end: str = ""
    """How it ended; empty before the end."""
    wall_s: float = 0.0
    """Seconds of the last invocation."""
    started_at: str = ""
    finished_at: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> Sequence[HasStatus]:
        """The trials or systems."""
        raise NotImplementedError

    def count(self, status: Status) -> int:
        """Count the trials or systems with a status."""
        return sum(part.status is status for part in self.parts)
