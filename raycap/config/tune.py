"""Settings of `raycap tune`."""

from typing import Any, Literal

from pydantic import Field

from raycap.config.base import Section
from raycap.config.train import TrainConfig


class SearchConfig(Section):
    """What is searched, how, and for how long."""

    space: dict[str, Any] | None = None
    """Values of settings of `raycap train`, by their names: a list of them, or one of
    `{uniform: [low, high]}`, `{loguniform: [low, high]}`, `{integers: [low, high]}` (both
    included). None: learning rate, batch size and, but for `blip`, depth."""
    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """Every combination of the lists, random draws, or Optuna's TPE (extra raycap[optuna])."""
    scheduler: Literal["none", "asha", "median"] = "asha"
    """Stop trials that fall behind early: by successive halving (Li et al. 2018,
    arXiv:1810.05934), by the median of the others (Golovin et al. 2017), or not at all."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs that no trial is stopped before."""
    reduction: int = Field(default=3, ge=2)
    """ASHA: the best of so many trials goes on at each rung."""
    num_trials: int | None = Field(default=None, ge=1)
    """Trials at the most. None: the whole grid; 20 of the others."""
    max_total_epochs: int | None = Field(default=None, ge=1)
    """Stop the search after so many epochs of all trials together; None: no limit."""
    max_time_s: float | None = Field(default=None, gt=0.0)
    """Stop the search after so many seconds of this invocation; None: no limit."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time. None: as many as the cluster holds now."""
    keep_models: Literal["best", "all"] = "best"
    """Keep the models of the best trial alone, or of all that ended."""
    retry_failed: bool = False
    """Run trials again that failed before."""
    seed: int = Field(default=0, ge=0)
    """Fixes the order and the draws; `train.seed` is that of each trial."""


class TuneConfig(TrainConfig):
    """All settings of `raycap tune`: those of each trial's `raycap train`, and the search's.

    `validation.metric` is what the trials are compared by.
    """

    tune: SearchConfig = SearchConfig()
    """What is searched, how, and for how long."""

    def base(self) -> TrainConfig:
        """Give the settings that all trials begin with."""
        return TrainConfig.model_validate(self.model_dump(exclude={"tune"}))
