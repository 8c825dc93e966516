"""Making one system: train or calibrate it, and caption the test split; in a process of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from raycap.captioning.record import Summary
from raycap.captioning.run import caption
from raycap.config import StudyConfig, TrainEngineConfig
from raycap.experiments.calibration.record import Calibration
from raycap.experiments.calibration.run import calibrate
from raycap.experiments.study.planning import (
    CALIBRATED,
    PRETRAINED,
    calibrate_config,
    caption_config,
    train_config,
)
from raycap.experiments.study.record import (
    SYSTEMS,
    CalibrationFound,
    Status,
    SystemRecord,
    TrainingFound,
)
from raycap.progress import Progress
from raycap.runs.opening import check_claimed
from raycap.storage.stores import open_store
from raycap.training.record import Training
from raycap.training.run import train
from raycap.training.status import TrainingProgress

_ASK_EVERY_S = 2.0
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudySpec:
    """What the maker of any system is told."""

    dataset: str
    output: str
    config: StudyConfig
    engine: TrainEngineConfig
    """How the work of training is spread, where several systems share the machine."""
    fingerprint: dict[str, Any]
    """The study's fingerprint, which the output must hold."""
    control: Any
    """The actor that says whether to stop, and that is told how systems get on."""
    debug: bool


def make_system(system: SystemRecord, spec: StudySpec) -> SystemRecord:
    """Make a system, or what is left of it.

    Raises:
        RaycapError: as training, calibrating or captioning raise it.
    """
    check_claimed(open_store(spec.output, spec.config.storage), spec.fingerprint)
    line = _Line(system.name, spec.control)
    folder = Path(spec.output) / SYSTEMS.folder_of(system.name)
    model = spec.config.pretrained
    if system.role == CALIBRATED:
        found = _calibrated(folder / "calibration", spec, line)
        system, model = replace(system, calibration=_calibration(found)), found.output
    elif system.role != PRETRAINED:
        trained = _trained(system, folder / "training", spec, line)
        system = replace(system, training=_training(trained))
        model = f"{trained.output}/model"
    summary = _captioned(model, folder / "captions", spec, line)
    return replace(
        system,
        status=Status.FINISHED,
        captioning_images_per_s=summary.images_per_s,
        captioning_wall_s=summary.wall_s,
        num_failed=summary.num_failed,
        output=str(folder),
    )


def _trained(system: SystemRecord, folder: Path, spec: StudySpec, line: "_Line") -> Training:
    config = train_config(system, spec.config)
    config = config.model_copy(update={"engine": spec.engine})

    def tell(progress: TrainingProgress) -> None:
        line.tell(f"training: epoch {progress.epoch}/{progress.num_epochs}", progress.share)

    return train(spec.dataset, folder, config=config, on_progress=tell, debug=spec.debug)


def _calibrated(folder: Path, spec: StudySpec, line: "_Line") -> Calibration:
    return calibrate(
        spec.config.pretrained,
        spec.dataset,
        folder,
        config=calibrate_config(spec.config),
        on_progress=line.telling("calibrating"),
        debug=spec.debug,
    )


def _captioned(model: str, folder: Path, spec: StudySpec, line: "_Line") -> Summary:
    return caption(
        spec.dataset,
        folder,
        config=caption_config(model, spec.config),
        on_progress=line.telling("captioning"),
        debug=spec.debug,
    )


class _Line:
    """A system's line to the driver: how it gets on there, an order to stop back."""

    def __init__(self, name: str, control: Any) -> None:
        self._name = name
        self._control = control
        self._next_tell = 0.0
        self._next_ask = 0.0
        self._was_told = False

    def tell(self, stage: str, share: float) -> None:
        """Tell how far a stage is, from 0 to 1; an order to stop is as an interrupt."""
        now = time.monotonic()
        if now >= self._next_tell:
            self._next_tell = now + _TELL_EVERY_S
            self._control.tell.remote(self._name, stage, share)
        if now >= self._next_ask and not self._was_told:
            self._next_ask = now + _ASK_EVERY_S
            if ray.get(self._control.wants_stop.remote()):
                self._was_told = True
                raise KeyboardInterrupt

    def telling(self, stage: str) -> Callable[[Progress], None]:
        """Make what is told of images."""
        return lambda progress: self.tell(stage, progress.num_done / max(1, progress.num_total))


def _training(found: Training) -> TrainingFound:
    best = found.best
    return TrainingFound(
        num_images=found.num_images,
        num_epochs=found.num_epochs,
        best_epoch=best.epoch,
        train_loss=best.train_loss,
        fitted_loss=best.fitted_loss,
        validation_loss=best.validation_loss,
        gap=best.gap,
        last_gap=found.last.gap,
        overfits_since=found.overfits_since,
        images_per_s=found.images_per_s,
        wall_s=round(sum(epoch.train_s + epoch.validation_s for epoch in found.history), 2),
        peak_memory_bytes=found.peak_memory_bytes,
        peak_device_bytes=found.peak_device_bytes,
    )


def _calibration(found: Calibration) -> CalibrationFound:
    return CalibrationFound(
        gap_before=found.start.length_gap,
        gap_after=found.chosen.length_gap,
        cider_before=found.start.cider_d,
        cider_after=found.chosen.cider_d,
        wall_s=found.wall_s,
    )
