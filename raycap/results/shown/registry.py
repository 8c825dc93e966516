"""What each type of result says of itself."""

from collections.abc import Callable
from typing import Any

from raycap.results.calibration import Calibration
from raycap.results.captioning import Forecast, OutputStatus, Summary, Verification
from raycap.results.dataset import DatasetRecord
from raycap.results.display import Shown
from raycap.results.evaluation import Evaluation
from raycap.results.outputs import Completeness, WorkStatus
from raycap.results.search import Search
from raycap.results.shown.captioning import (
    show_forecast,
    show_status,
    show_summary,
    show_verification,
)
from raycap.results.shown.evaluation import show_evaluation
from raycap.results.shown.experiments import (
    show_calibration,
    show_search,
    show_study,
    show_training,
)
from raycap.results.shown.work import show_completeness, show_dataset, show_work
from raycap.results.study import Study
from raycap.results.training import Training

DESCRIBED: dict[type, Callable[[Any], Shown]] = {
    Calibration: show_calibration,
    Completeness: show_completeness,
    DatasetRecord: show_dataset,
    Evaluation: show_evaluation,
    Forecast: show_forecast,
    OutputStatus: show_status,
    Search: show_search,
    Study: show_study,
    Summary: show_summary,
    Training: show_training,
    Verification: show_verification,
    WorkStatus: show_work,
}
"""The function that describes a result of each type."""


def describe(result: object) -> Shown:
    """Return what a result says of itself."""
    return DESCRIBED[type(result)](result)
