"""Texts and inks of a study, shared by its tables and charts."""

from collections.abc import Sequence

from raycap.reporting.svg import NUM_LINE_INKS
from raycap.results.study import Study


def ink_of(study: Study, role: str) -> str:
    """Return the ink of a kind of system, the same in all charts."""
    roles = list(dict.fromkeys(system.role for system in study.systems))
    return f"line-{roles.index(role) % NUM_LINE_INKS}"


def share_name(share: float) -> str:
    """Format a share of images: 0.25 as `25 %`."""
    return f"{100 * share:.3g} %"


def enumerated(texts: Sequence[str], most: int) -> str:
    """Join the first `most` texts, and count the others."""
    more = len(texts) - most
    return "; ".join([*texts[:most], *([f"and {more} more, see the table"] if more > 0 else [])])
