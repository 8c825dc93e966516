"""How far a search is, for whoever looks on."""

from collections.abc import Callable
from dataclasses import dataclass

from raycap.experiments.tuning.search import Search, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """How far a search is."""

    search: Search
    """All trials so far."""
    trial: Trial | None
    """The one that has just come to something; None where none has."""
    notes: tuple[str, ...] = ()
    """What a person should know of that trial."""


OnSearchProgress = Callable[[SearchProgress], None]
"""Called when a trial begins, ends an epoch, or is over."""
