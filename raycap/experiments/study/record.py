"""Files of a study's systems."""

from raycap.experiments.journal import Experiment
from raycap.results.study import SystemRecord

EVALUATION = "evaluation"
GROWTH = "growth"
SYSTEMS: Experiment[SystemRecord] = Experiment(
    folder="systems/", record="system.json", form=SystemRecord
)
