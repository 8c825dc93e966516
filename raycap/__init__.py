"""raycap: distributed image captioning on Ray.

Every command of the command line is a function of the same name:

    import raycap

    summary = raycap.caption("photos/", "captions/", model="demo")
    raycap.export("captions/", "captions.jsonl", to="jsonl")

Modules are loaded on first use, so `import raycap` is quick. In a notebook and at an interactive
prompt, long functions show their progress.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycap.captioning.local import Captioner, load_captioner
    from raycap.captioning.run import caption, forecast
    from raycap.config import (
        CalibrateConfig,
        CaptionConfig,
        EvaluateConfig,
        PrepareConfig,
        ReportConfig,
        ReviewConfig,
        StudyConfig,
        TrainConfig,
        TuneConfig,
    )
    from raycap.config.loading import load_config
    from raycap.diagnostics import doctor
    from raycap.errors import RaycapError
    from raycap.evaluation.evaluate import evaluate
    from raycap.experiments.calibration.run import calibrate
    from raycap.experiments.study.run import study
    from raycap.experiments.tuning.run import tune
    from raycap.exporting.dataset import prepare
    from raycap.exporting.edits import copy_edits, export_edits, list_edits, undo_edits
    from raycap.exporting.export import export
    from raycap.images.decoding import Target
    from raycap.inspection import status, verify
    from raycap.models.base import Caption
    from raycap.preflights.run import preflight
    from raycap.reading.read import read
    from raycap.reading.rows import Rows
    from raycap.reporting.report import report
    from raycap.results.caption_result import CaptionResult
    from raycap.results.captioning import Summary
    from raycap.reviewing.review import review
    from raycap.training.run import train

_SOURCES = {
    "CalibrateConfig": "raycap.config",
    "Caption": "raycap.models.base",
    "CaptionConfig": "raycap.config",
    "CaptionResult": "raycap.results.caption_result",
    "Captioner": "raycap.captioning.local",
    "EvaluateConfig": "raycap.config",
    "PrepareConfig": "raycap.config",
    "RaycapError": "raycap.errors",
    "ReportConfig": "raycap.config",
    "ReviewConfig": "raycap.config",
    "Rows": "raycap.reading.rows",
    "StudyConfig": "raycap.config",
    "Summary": "raycap.results.captioning",
    "Target": "raycap.images.decoding",
    "TrainConfig": "raycap.config",
    "TuneConfig": "raycap.config",
    "calibrate": "raycap.experiments.calibration.run",
    "caption": "raycap.captioning.run",
    "copy_edits": "raycap.exporting.edits",
    "doctor": "raycap.diagnostics",
    "evaluate": "raycap.evaluation.evaluate",
    "export": "raycap.exporting.export",
    "export_edits": "raycap.exporting.edits",
    "forecast": "raycap.captioning.run",
    "list_edits": "raycap.exporting.edits",
    "load_captioner": "raycap.captioning.local",
    "load_config": "raycap.config.loading",
    "preflight": "raycap.preflights.run",
    "prepare": "raycap.exporting.dataset",
    "read": "raycap.reading.read",
    "report": "raycap.reporting.report",
    "review": "raycap.reviewing.review",
    "status": "raycap.inspection",
    "study": "raycap.experiments.study.run",
    "train": "raycap.training.run",
    "tune": "raycap.experiments.tuning.run",
    "undo_edits": "raycap.exporting.edits",
    "verify": "raycap.inspection",
}
"""Public names, and the module of each."""

_WATCHED = {"calibrate", "caption", "evaluate", "preflight", "prepare", "study", "train", "tune"}
"""Functions that show their progress where a person watches."""

__all__ = [
    "CalibrateConfig",
    "Caption",
    "CaptionConfig",
    "CaptionResult",
    "Captioner",
    "EvaluateConfig",
    "PrepareConfig",
    "RaycapError",
    "ReportConfig",
    "ReviewConfig",
    "Rows",
    "StudyConfig",
    "Summary",
    "Target",
    "TrainConfig",
    "TuneConfig",
    "calibrate",
    "caption",
    "copy_edits",
    "doctor",
    "evaluate",
    "export",
    "export_edits",
    "forecast",
    "list_edits",
    "load_captioner",
    "load_config",
    "preflight",
    "prepare",
    "read",
    "report",
    "review",
    "status",
    "study",
    "train",
    "tune",
    "undo_edits",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'raycap' has no attribute {name!r}")
    # Set by every interactive Python, the kernels of notebooks among them; scripts have none.
    if not hasattr(sys, "ps1"):
        return getattr(import_module(_SOURCES[name]), name)
    interactive = import_module("raycap.console.interactive")
    with interactive.quiet_about_widgets():
        found = getattr(import_module(_SOURCES[name]), name)
    return interactive.with_progress(found) if name in _WATCHED else found


def __dir__() -> list[str]:
    return sorted(__all__)
