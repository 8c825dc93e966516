"""Result of a length calibration, beside the calibrated model.

trials.jsonl             the settings tried so far; a run that was killed continues from it
lock.json                held while a run writes
config.json, ...         the model, unchanged
generation_config.json   the chosen settings, under their names in transformers
raycap.json              kind, training if it was trained, `generation`: the chosen settings
calibration.json         the Calibration below; written last: with it, the folder is complete
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from raycap.config import GenerationConfig
from raycap.results.display import Displayed
from raycap.runs.records import encode_json, read_as
from raycap.storage.base import Store

CALIBRATION = "calibration.json"
TRIALS = "trials.jsonl"
_CHANGED = ("min_new_tokens", "max_new_tokens", "length_penalty", "no_repeat_ngram_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSetting:
    """One setting and the scores of its captions. Lengths are in tokens of the metrics."""

    generation: GenerationConfig
    cider_d: float
    bleu_4: float
    mean_length: float
    """Of the captions."""
    length_gap: float
    """Mean length of captions minus that of the references: negative means too short."""
    repetition: float
    """Share of captions in which a sequence of up to four tokens is repeated immediately."""
    longest_repeat: int
    """Tokens of the longest sequence that occurs twice in a caption."""
    num_failed: int = 0
    """Images that the model could not caption; they score 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLengths:
    """Mean length of the references."""

    metric_tokens: float
    """In tokens of the metrics."""
    model_tokens: float
    """In the model's own tokens, in which the settings are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecord:
    """The images on which settings are tried."""

    num_images: int
    num_unreadable: int
    """Images left out because they could not be read."""
    digest: str
    """SHA-256 of the image ids, in hex."""
    num_references: int
    lengths: ReferenceLengths


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Calibration(Displayed):
    """Result of a calibration. In `calibration.json`."""

    output: str
    model: dict[str, Any]
    """The calibrated model."""
    dataset: dict[str, Any]
    """The dataset on which settings were tried."""
    split: str
    images: SliceRecord
    tokenizer: str
    """Lengths in tokens, CIDEr-D and BLEU depend on it."""
    start: ScoredSetting
    """The initial settings: the first trial."""
    chosen: ScoredSetting
    trials: list[ScoredSetting]
    """All trials, in the order in which they were tried."""
    max_cider_loss: float
    closed_gap: float
    config: dict[str, Any]
    wall_s: float
    """Seconds of the last invocation, including the start of Ray."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = ""

    def summary(self) -> dict[str, Any]:
        """Summarise the origin of the settings, for `raycap.json`."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_images": self.images.num_images,
            "changed": changes(self.chosen.generation),
            "length_gap": {"start": self.start.length_gap, "chosen": self.chosen.length_gap},
            "cider_d": {"start": self.start.cider_d, "chosen": self.chosen.cider_d},
        }


_FORM = TypeAdapter(Calibration)


def changes(generation: GenerationConfig) -> dict[str, int | float]:
    """Return the settings that calibration varies."""
    return {name: getattr(generation, name) for name in _CHANGED}


def frontier(trials: Sequence[ScoredSetting]) -> list[ScoredSetting]:
    """Return the settings that no other beats in both CIDEr-D and length gap, by their gap."""
    best: list[ScoredSetting] = []
    for trial in sorted(trials, key=lambda trial: (abs(trial.length_gap), -trial.cider_d)):
        if not best or trial.cider_d > best[-1].cider_d:
            best.append(trial)
    return best


def write_calibration(store: Store, calibration: Calibration) -> None:
    """Write `calibration.json`, the last file of a calibration."""
    store.write(CALIBRATION, encode_json(_FORM.dump_python(calibration, mode="json")))


def read_calibration(store: Store) -> Calibration:
    """Read `calibration.json`.

    Raises:
        ObjectNotFound: there is none.
        DatasetError: it is damaged.
    """
    return read_as(_FORM, store, CALIBRATION, "calibrate again")
