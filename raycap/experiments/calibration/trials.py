"""`trials.jsonl`: what was tried, a line at once, so that a run that was killed goes on.

The first line is the fingerprint, the second tells of the images, each other one is a trial.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError, RunConflict
from raycap.experiments.calibration.search import ReferenceLengths, Trial
from raycap.runs.records import difference

TRIALS = "trials.jsonl"

_FINGERPRINT, _SLICE, _TRIAL = "fingerprint", "slice", "trial"


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


_SLICE_FORM = TypeAdapter(SliceRecord)
_TRIAL_FORM = TypeAdapter(Trial)


class TrialLog:
    """The trials of a folder: those that stand there, and those that are added."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        """Read what stands there.

        Raises:
            RunConflict: that was another calibration; the message shows the difference.
            DatasetError: it is damaged.
        """
        self._path = folder / TRIALS
        self.slice: SliceRecord | None = None
        self.trials: list[Trial] = []
        lines = self._read()
        if not lines:
            self._append({_FINGERPRINT: fingerprint})
            return
        theirs = lines[0].get(_FINGERPRINT, {})
        if theirs != fingerprint:
            raise RunConflict(
                f"{folder}: holds another calibration; give another output, or the settings of "
                f"that one (- that one, + this one):\n{difference(theirs, fingerprint)}"
            )
        try:
            for line in lines[1:]:
                self._take(line)
        except ValidationError as error:
            raise self._damaged(error.errors()[0]["msg"]) from error

    def start(self, images: SliceRecord) -> None:
        """Tell which images settings are tried on.

        Raises:
            RunConflict: the trials so far were on other ones.
        """
        if self.slice is None:
            self.slice = images
            self._append({_SLICE: asdict(images)})
        elif self.slice.digest != images.digest:
            raise RunConflict(
                f"{self._path}: its trials were on {self.slice.num_images} images of the split, of "
                f"which {images.num_images} can be read now; bring the images back, or give "
                "another output"
            )

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        self._append({_TRIAL: _TRIAL_FORM.dump_python(trial, mode="json")})

    def _take(self, line: dict[str, Any]) -> None:
        if _SLICE in line:
            self.slice = _SLICE_FORM.validate_python(line[_SLICE])
        elif _TRIAL in line:
            self.trials.append(_TRIAL_FORM.validate_python(line[_TRIAL]))

    def _read(self) -> list[dict[str, Any]]:
        """Read whole lines; what a kill left of the last one is cut off."""
        if not self._path.is_file():
            return []
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(
            f"{self._path}: is damaged ({reason}); delete it, or calibrate into a new output"
        )
