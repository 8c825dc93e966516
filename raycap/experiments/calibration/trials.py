"""`trials.jsonl`: the trials of a calibration, so that a run that was killed can continue.

The first line is the fingerprint, the second describes the images, each other line is a trial.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycap.errors import RunConflict
from raycap.experiments.calibration.search import ReferenceLengths, Trial
from raycap.experiments.journal import LineJournal
from raycap.runs.records import difference

TRIALS = "trials.jsonl"

_SLICE, _TRIAL = "slice", "trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecord:
    """The images that settings are tried on."""

    num_images: int
    num_unreadable: int
    """Left out, because they could not be read."""
    digest: str
    """SHA-256 over the ids of the images, in hex."""
    num_references: int
    lengths: ReferenceLengths


_FORMS = {_SLICE: SliceRecord, _TRIAL: Trial}


class TrialLog:
    """The trials of a calibration: those in its folder, and those added since."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        """Read the folder's trials.

        Raises:
            RunConflict: they belong to another calibration; the message shows the difference.
            DatasetError: the file is damaged.
        """
        self._path = folder / TRIALS
        self._journal = LineJournal(self._path, _FORMS)
        theirs = self._journal.fingerprint
        if theirs is None:
            self._journal.claim(fingerprint)
        elif theirs != fingerprint:
            raise RunConflict(
                f"{folder}: holds another calibration; give another output, or the settings of "
                f"that one (- that one, + this one):\n{difference(theirs, fingerprint)}"
            )

    @property
    def slice(self) -> SliceRecord | None:
        """The images of the trials; None before the first."""
        return next(iter(self._journal.entries(_SLICE)), None)

    @property
    def trials(self) -> list[Trial]:
        """All trials, in order."""
        return self._journal.entries(_TRIAL)

    def start(self, images: SliceRecord) -> None:
        """Record the images that settings are tried on.

        Raises:
            RunConflict: the trials so far used other images.
        """
        if self.slice is None:
            self._journal.add(_SLICE, images)
        elif self.slice.digest != images.digest:
            raise RunConflict(
                f"{self._path}: its trials used {self.slice.num_images} images of the split, of "
                f"which {images.num_images} can be read now; bring the images back, or give "
                "another output"
            )

    def add(self, trial: Trial) -> None:
        """Append a trial."""
        self._journal.add(_TRIAL, trial)
