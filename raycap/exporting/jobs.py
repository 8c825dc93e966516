"""What an export is asked to do, as every exporter gets it."""

from collections.abc import Callable
from dataclasses import dataclass

from raycap.config import Existing, SameStem
from raycap.exporting.selection import Selection
from raycap.results.captioning import ExportCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """One export."""

    rows: Selection
    destination: str
    existing: Existing
    same_stem: SameStem


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A format of an export."""

    write: Callable[[ExportJob], ExportCounts]
    existing: frozenset[Existing] = frozenset({Existing.REFUSE, Existing.OVERWRITE})
    """What it can do with files that exist."""
    has_columns: bool = True
    """Whether its columns can be chosen."""
