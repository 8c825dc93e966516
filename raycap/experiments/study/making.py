"""Making one system, in its own process: train or calibrate it, and caption the test split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycap.captioning.run import caption
from raycap.cluster.mailbox import Sender
from raycap.config import StudyConfig, TrainEngineConfig
from raycap.experiments.calibration.run import calibrate
from raycap.experiments.study.planning import (
    CALIBRATED,
    PRETRAINED,
    SYSTEMS,
    calibrate_config,
    caption_config,
    train_config,
)
from raycap.progress import Progress
from raycap.results.calibration import Calibration
from raycap.results.captioning import Summary
from raycap.results.status import Status
from raycap.results.study import CalibrationFound, SystemRecord, TrainingFound
from raycap.results.training import Training, TrainingProgress
from raycap.runs.opening import check_claimed
from raycap.storage.stores import open_store
from raycap.training.run import train


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudySpec:
    """Everything that making a system needs to know about the study."""

    dataset: str
    output: str
    config: StudyConfig
    engine: TrainEngineConfig
    """Workers and threads of training, when several systems share the machine."""
    fingerprint: dict[str, Any]
    """The study's fingerprint, which the output must hold."""
    mailbox: Any
    """The actor that systems report to, and that asks them to stop."""
    debug: bool


def make_system(system: SystemRecord, spec: StudySpec, sender: Sender) -> SystemRecord:
    """Make a system, or finish one that was interrupted.

    Raises:
        RaycapError: training, calibrating or captioning raised it.
    """
    check_claimed(open_store(spec.output, spec.config.storage), spec.fingerprint)
    line = _Line(sender)
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
        line.report(f"training: epoch {progress.epoch}/{progress.num_epochs}", progress.share)

    return train(spec.dataset, folder, config=config, on_progress=tell, debug=spec.debug)


def _calibrated(folder: Path, spec: StudySpec, line: "_Line") -> Calibration:
    return calibrate(
        spec.config.pretrained,
        spec.dataset,
        folder,
        config=calibrate_config(spec.config),
        on_progress=line.reporting("calibrating"),
        debug=spec.debug,
    )


def _captioned(model: str, folder: Path, spec: StudySpec, line: "_Line") -> Summary:
    return caption(
        spec.dataset,
        folder,
        config=caption_config(model, spec.config),
        on_progress=line.reporting("captioning"),
        debug=spec.debug,
    )


class _Line:
    """A system's connection to the driver: sends progress, receives the request to stop."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def report(self, stage: str, share: float) -> None:
        """Send the progress of a stage, from 0 to 1; raise KeyboardInterrupt if told to stop."""
        self._sender.update((stage, share))
        self._sender.check_stop()

    def reporting(self, stage: str) -> Callable[[Progress], None]:
        """Return a function that reports the progress of a stage over images."""
        return lambda progress: self.report(stage, progress.num_done / max(1, progress.num_total))


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
