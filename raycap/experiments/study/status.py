"""How far a study is, for whoever looks on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raycap.experiments.study.record import Study, SystemRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study is."""

    study: Study
    stages: Mapping[str, tuple[str, float]]
    """What each system that is being made is at, and how far, from 0 to 1."""
    system: SystemRecord | None = None
    """One that is just over; None where none is."""


OnStudyProgress = Callable[[StudyProgress], None]
"""Called now and then, and when a system is over."""
