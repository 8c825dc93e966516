"""What every check comes to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from raycap.errors import ImageError, RaycapError


class Verdict(StrEnum):
    """How a check came out."""

    WELL = "ok"
    POOR = "poor"
    """Runs work, but slowly, or fail under load."""
    FAILED = "failed"
    """Runs that need it fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """What to do where it is not well."""


def told(name: str, look: Callable[[], Check]) -> Check:
    """Look, and turn an error of raycap into a check that failed: it says itself what to do."""
    try:
        return look()
    except (RaycapError, ImageError) as error:
        return Check(name=name, verdict=Verdict.FAILED, found=" ".join(str(error).split()))


Checks = Iterator[Check]
