"""What a calibration came to: `calibration.json` beside the model that it wrote.

trials.jsonl             what was tried so far; a run that was killed goes on from it
lock.json                held while a run writes
config.json, ...         the model, as it was
generation_config.json   the chosen settings, in transformers' words
raycap.json              kind, training if it was trained, `generation`: the chosen settings
calibration.json         the Calibration below; written last: with it, the folder is complete
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from raycap.experiments.calibration.search import Trial, changes
from raycap.experiments.calibration.trials import SliceRecord
from raycap.runs.records import encode_json
from raycap.storage.base import Store

CALIBRATION = "calibration.json"
REMEDY = "finished settings are kept: run the same command to continue"
"""What a person does where the cluster failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a calibration came to."""

    output: str
    model: dict[str, Any]
    """Which model was calibrated."""
    dataset: dict[str, Any]
    """Which dataset settings were tried on."""
    split: str
    images: SliceRecord
    tokenizer: str
    """Lengths in tokens, and CIDEr-D and BLEU, depend on it."""
    start: Trial
    """The settings to start from, which is the first trial."""
    chosen: Trial
    trials: list[Trial]
    """All, in the order in which they were tried."""
    max_cider_loss: float
    closed_gap: float
    config: dict[str, Any]
    wall_s: float
    """Seconds that the last invocation took, Ray's start included."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = ""

    def summary(self) -> dict[str, Any]:
        """Say in short, for `raycap.json`, where the settings come from."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_images": self.images.num_images,
            "changed": changes(self.chosen.generation),
            "length_gap": {"start": self.start.length_gap, "chosen": self.chosen.length_gap},
            "cider_d": {"start": self.start.cider_d, "chosen": self.chosen.cider_d},
        }


_FORM = TypeAdapter(Calibration)


def write_calibration(store: Store, calibration: Calibration) -> None:
    """Write `calibration.json`, the last file of a calibration."""
    store.write(CALIBRATION, encode_json(_FORM.dump_python(calibration, mode="json")))
