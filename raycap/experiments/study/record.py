"""What a study came to: `study.json`, and where everything lies.

run.json                    created once: the fingerprint; another study is refused
config.json                 all settings of the last invocation, resolved
lock.json                   held while a study runs
systems/NAME/training/      of a trained system: what `raycap train` wrote
systems/NAME/calibration/   of the calibrated one: what `raycap calibrate` wrote
systems/NAME/captions/      of the test split: what `raycap caption` wrote
systems/NAME/system.json    what it came to; written when it is over
evaluation/                 the main systems against people: what `raycap evaluate` wrote
growth/                     the systems on smaller subsets and without augmentation, the same way
study.json                  the Study below; rewritten after each system
report.html                 all of it as a page
summary.md                  what to decide by, to paste into a README
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from raycap.experiments.journal import Experiment
from raycap.runs.records import encode_json, read_as
from raycap.storage.base import Store

STUDY = "study.json"
REPORT = "report.html"
SUMMARY = "summary.md"
EVALUATION = "evaluation"
GROWTH = "growth"
DIFFERENT_CAPTIONS = "different_captions"
_REMEDY = "delete it, and run the same command"


class Status(StrEnum):
    """How a system is."""

    WAITING = "waiting"
    RUNNING = "running"
    """It has begun, and goes on or was interrupted."""
    FINISHED = "finished"
    FAILED = "failed"
    """It ended by an error; `reason` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of a system, with its confidence interval over images."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFound:
    """What training a system came to; losses are those of the best epoch, in nats a token."""

    num_images: int
    """That it was trained on."""
    num_epochs: int
    best_epoch: int
    train_loss: float
    fitted_loss: float
    validation_loss: float
    gap: float
    """Generalisation gap: validation less fitted."""
    last_gap: float
    """The same after the last epoch."""
    overfits_since: int | None
    images_per_s: float
    wall_s: float
    """Of the steps and the validations."""
    peak_memory_bytes: int
    """Of a worker's process."""
    peak_device_bytes: int
    """Of its accelerator; 0 on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFound:
    """What calibrating a system came to, on the validation split."""

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
    """Whether it stands in the table: on all images, with augmentation if any has it."""
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
        """Seconds that it cost: training or calibrating, and captioning the test split."""
        made = self.training or self.calibration
        return round((made.wall_s if made else 0.0) + self.captioning_wall_s, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a study came to."""

    output: str
    dataset: str
    split: str
    """That the systems were tested on."""
    num_images: int
    """Of that split, scored."""
    reference_mean_tokens: float
    reference_mean_words: float
    systems: list[SystemRecord]
    best: str | None
    """The main system of the best CIDEr-D."""
    decision: list[str]
    """What to conclude, in sentences."""
    end: str = ""
    """`finished`; empty while it goes on."""
    wall_s: float = 0.0
    """Seconds of the last invocation."""
    started_at: str = ""
    finished_at: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def system(self, name: str) -> SystemRecord:
        """Find a system by its name."""
        return next(system for system in self.systems if system.name == name)

    def count(self, status: Status) -> int:
        """Count the systems of a status."""
        return sum(system.status == status for system in self.systems)


SYSTEMS: Experiment[SystemRecord] = Experiment(
    folder="systems/", record="system.json", form=SystemRecord
)
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
    found: Study = read_as(_STUDY_FORM, store, STUDY, _REMEDY)
    return found
