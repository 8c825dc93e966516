"""Result of a study: its systems, their scores, and the conclusions.

run.json                    created once: the fingerprint; a different study is refused
config.json                 all settings of the last invocation, resolved
lock.json                   held while a study runs
systems/NAME/training/      of a trained system: output of `raycap train`
systems/NAME/calibration/   of a calibrated system: output of `raycap calibrate`
systems/NAME/captions/      of the test split: output of `raycap caption`
systems/NAME/system.json    the SystemRecord below; written when the system ends
evaluation/                 the main systems against the references: output of `raycap evaluate`
growth/                     the same for systems on smaller subsets or without augmentation
study.json                  the Study below; rewritten after each system
report.html                 all of it as a page
summary.md                  tables and conclusions in Markdown, to paste into a README
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter

from raycap.results.status import ExperimentRecord, Status
from raycap.runs.records import encode_json, read_as
from raycap.schema import CIDER_D
from raycap.storage.base import Store

STUDY = "study.json"
REPORT = "report.html"
SUMMARY = "summary.md"
_REMEDY = "delete it, and run the same command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of a system, with its confidence interval over images."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFound:
    """Result of training a system. Losses are those of the best epoch, in nats per token."""

    num_images: int
    """Training images."""
    num_epochs: int
    best_epoch: int
    train_loss: float
    fitted_loss: float
    validation_loss: float
    gap: float
    """Generalisation gap: `validation_loss` minus `fitted_loss`."""
    last_gap: float
    """The same after the last epoch."""
    overfits_since: int | None
    images_per_s: float
    wall_s: float
    """Of the training steps and validations."""
    peak_memory_bytes: int
    """Of the first worker's process."""
    peak_device_bytes: int
    """Of its accelerator's memory; 0 on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFound:
    """Result of calibrating a system, on the validation split."""

    gap_before: float
    """Length gap, in tokens."""
    gap_after: float
    cider_before: float
    cider_after: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRecord:
    """One system of a study."""

    name: str
    """Such as `hybrid`, `hybrid-25` for a quarter of the images, `hybrid-plain` without
    augmentation."""
    role: str
    """`cnn-lstm`, `transformer`, `hybrid`, `blip-pretrained`, `blip-calibrated` or
    `blip-finetuned`."""
    subset: float = 1.0
    """Share of the training split."""
    is_augmented: bool = True
    is_main: bool = False
    """Whether it is in the main table: trained on all images, with augmentation if any has it."""
    status: Status = Status.WAITING
    reason: str = ""
    """Why it failed."""
    training: TrainingFound | None = None
    calibration: CalibrationFound | None = None
    captioning_images_per_s: float = 0.0
    captioning_wall_s: float = 0.0
    num_failed: int = 0
    """Images of the test split without a caption."""
    scores: dict[str, Score] = field(default_factory=dict)
    """`bleu_1`..`bleu_4`, `rouge_l`, `cider_d`, others that ran, `length_gap` (tokens),
    `mean_tokens`, `mean_words`, `distinct_2`, `repetition`, `different_captions` (a count)."""
    output: str = ""

    @property
    def wall_s(self) -> float:
        """Seconds for training or calibrating, and for captioning the test split."""
        made = self.training or self.calibration
        return round((made.wall_s if made else 0.0) + self.captioning_wall_s, 2)

    def score(self, name: str) -> Score | None:
        """Return a score; None if it is missing or not finite."""
        found = self.scores.get(name)
        return found if found is not None and math.isfinite(found.value) else None

    def value(self, name: str) -> float | None:
        """Return the value of a score; None if it is missing or not finite."""
        found = self.score(name)
        return None if found is None else found.value


@dataclass(frozen=True, kw_only=True, repr=False)
class Study(ExperimentRecord):
    """Result of a study, finished or not. In `study.json`.

    `best` is the main system with the best CIDEr-D; `end` is `finished`.
    """

    split: str
    """On which the systems were tested."""
    num_images: int
    """Scored images of that split."""
    reference_mean_tokens: float
    reference_mean_words: float
    systems: list[SystemRecord]
    decision: list[str]
    """The conclusions, in sentences."""

    @property
    def parts(self) -> list[SystemRecord]:
        """The systems."""
        return self.systems

    def system(self, name: str) -> SystemRecord:
        """Return a system by its name."""
        return next(system for system in self.systems if system.name == name)

    @property
    def main(self) -> tuple[SystemRecord, ...]:
        """The main systems, in order."""
        return tuple(system for system in self.systems if system.is_main)

    @property
    def trained(self) -> tuple[SystemRecord, ...]:
        """The systems that have been trained."""
        return tuple(system for system in self.systems if system.training is not None)

    @property
    def best_system(self) -> SystemRecord | None:
        """The best main system so far; None before one has a CIDEr-D."""
        scored = [system for system in self.main if system.score(CIDER_D)]
        named = (system for system in scored if system.name == self.best)
        first = max(scored, key=lambda system: system.value(CIDER_D) or 0.0, default=None)
        return next(named, first)

    @property
    def people_words(self) -> float | None:
        """Mean words of the references; None before they were counted."""
        words = self.reference_mean_words
        return words if math.isfinite(words) and words > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """Progress of a study."""

    study: Study
    stages: Mapping[str, tuple[str, float]]
    """Stage of each running system, and the finished share of the stage, 0 to 1."""
    system: SystemRecord | None = None
    """A system that has just ended; None if none has."""


OnStudyProgress = Callable[[StudyProgress], None]
"""Called from time to time, and when a system ends."""


_STUDY_FORM = TypeAdapter(Study)


def write_study(store: Store, study: Study) -> None:
    """Write `study.json`."""
    store.write(STUDY, encode_json(asdict(study)))


def read_study(store: Store) -> Study:
    """Read `study.json`.

    Raises:
        DatasetError: it is damaged.
        ObjectNotFound: there is none.
    """
    return read_as(_STUDY_FORM, store, STUDY, _REMEDY)
