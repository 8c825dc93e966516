"""Status of one trial of a search, or of one system of a study."""

from enum import StrEnum


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
