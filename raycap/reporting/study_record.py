"""A study's output, read for the page: finished, or still going."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from raycap.runs.records import read_as
from raycap.schema import CIDER_D
from raycap.storage.base import Store

STUDY = "study.json"  # written by `raycap study` after each system

MEAN_WORDS = "mean_words"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyScore:
    """One number of a system, with its confidence interval over images."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTraining:
    """What training a system came to; losses are those of the best epoch, in nats a token."""

    num_images: int
    num_epochs: int
    best_epoch: int
    train_loss: float
    fitted_loss: float
    validation_loss: float
    gap: float
    """Generalisation gap: validation less fitted."""
    last_gap: float
    overfits_since: int | None = None
    images_per_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_bytes: int = 0
    """Of a worker's accelerator; 0 on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCalibration:
    """What calibrating a system came to, on the validation split; gaps are in tokens."""

    gap_before: float
    gap_after: float
    cider_before: float
    cider_after: float
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySystem:
    """One system of a study."""

    name: str
    role: str
    """Its kind, such as `hybrid` or `blip-pretrained`."""
    subset: float = 1.0
    """Share of the training images."""
    is_augmented: bool = True
    is_main: bool = False
    """Whether it stands in the first table."""
    status: Literal["waiting", "running", "finished", "failed"] = "waiting"
    reason: str = ""
    """Why it failed."""
    training: StudyTraining | None = None
    calibration: StudyCalibration | None = None
    captioning_images_per_s: float = 0.0
    captioning_wall_s: float = 0.0
    num_failed: int = 0
    """Images of the test split without a caption."""
    scores: dict[str, StudyScore] = field(default_factory=dict)
    output: str = ""

    @property
    def wall_s(self) -> float:
        """Seconds that it cost: training or calibrating, and captioning the test split."""
        made = self.training or self.calibration
        return (made.wall_s if made else 0.0) + self.captioning_wall_s

    def score(self, name: str) -> StudyScore | None:
        """Find a score; None where it is missing or is no number."""
        found = self.scores.get(name)
        return found if found is not None and math.isfinite(found.value) else None

    def value(self, name: str) -> float | None:
        """Give the value of a score; None where it is missing or is no number."""
        found = self.score(name)
        return None if found is None else found.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a study's output tells."""

    output: str
    dataset: str
    split: str
    """That the systems were tested on."""
    num_images: int
    reference_mean_tokens: float
    reference_mean_words: float
    systems: list[StudySystem]
    best: str | None = None
    """The main system of the best CIDEr-D."""
    decision: list[str] = field(default_factory=list)
    end: str = ""
    """`finished`; empty while it goes on."""
    wall_s: float = 0.0
    """Seconds of the last invocation."""
    started_at: str = ""
    finished_at: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> tuple[StudySystem, ...]:
        """The systems of the first table, in order."""
        return tuple(system for system in self.systems if system.is_main)

    @property
    def best_system(self) -> StudySystem | None:
        """The best main system so far; None before one has a CIDEr-D."""
        scored = [system for system in self.main if system.score(CIDER_D)]
        named = (system for system in scored if system.name == self.best)
        first = max(scored, key=lambda system: system.value(CIDER_D) or 0.0, default=None)
        return next(named, first)

    @property
    def people_words(self) -> float | None:
        """Mean words of the references; None before any caption was scored."""
        words = self.reference_mean_words
        return words if math.isfinite(words) and words > 0 else None

    def ink(self, role: str) -> str:
        """Name the ink of a kind of system, the same in all charts."""
        roles = list(dict.fromkeys(system.role for system in self.systems))
        return f"line-{roles.index(role) % _NUM_INKS}"

    def count(self, status: str) -> int:
        """Count the systems of a status."""
        return sum(system.status == status for system in self.systems)

    def trained(self) -> tuple[StudySystem, ...]:
        """Find the systems whose training is over, on a share of images that makes sense."""
        return tuple(it for it in self.systems if it.training and 0 < it.subset <= 1)


_NUM_INKS = 6
_FORM = TypeAdapter(Study)


def read_study(store: Store) -> Study:
    """Read a study's output.

    Raises:
        DatasetError: its record is damaged.
        StorageError: the store refuses.
    """
    found: Study = read_as(
        _FORM, store, STUDY, "delete it, and run the same `raycap study` command again"
    )
    return found


def share_name(share: float) -> str:
    """Name a share of images: 0.25 as `25 %`."""
    return f"{100 * share:.3g} %"


def enumerated(texts: Sequence[str], most: int) -> str:
    """Join texts, and count those beyond `most`."""
    more = len(texts) - most
    return "; ".join([*texts[:most], *([f"and {more} more, see the table"] if more > 0 else [])])
