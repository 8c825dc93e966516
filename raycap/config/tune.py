"""Settings of `raycap tune`."""

from typing import Any, Literal

from pydantic import Field

from raycap.config.base import Section
from raycap.config.train import TrainConfig


class SearchConfig(Section):
    """The search: its space, algorithm and budget."""

    space: dict[str, Any] | None = None
    """Values to try, by the name of a setting of `raycap train`: a list, or one of
    `{uniform: [low, high]}`, `{loguniform: [low, high]}`, `{integers: [low, high]}` (both
    included). None: learning rate, batch size and, except for `blip`, depth."""
    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """Every combination of the lists, random draws, or Optuna's TPE (extra raycap[optuna])."""
    scheduler: Literal["none", "asha", "median"] = "asha"
    """How trials that fall behind are stopped early: not at all, by successive halving (`asha`; Li
    et al. 2018, arXiv:1810.05934), or by the median of the others (Golovin et al. 2017)."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs before which no trial is stopped."""
    reduction: int = Field(default=3, ge=2)
    """ASHA: at each rung, one of this many trials continues."""
    num_trials: int | None = Field(default=None, ge=1)
    """Maximum number of trials. None: the whole grid; 20 for the other algorithms."""
    max_total_epochs: int | None = Field(default=None, ge=1)
    """Stop the search after this many epochs, summed over all trials; None: no limit."""
    max_time_s: float | None = Field(default=None, gt=0.0)
    """Stop the search after this many seconds of this invocation; None: no limit."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Maximum number of trials at a time. None: as many as fit into the cluster."""
    keep_models: Literal["best", "all"] = "best"
    """Keep the model of the best trial only, or of all trials that ended."""
    retry_failed: bool = False
    """Retry trials that failed before."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of trials and of random draws; `train.seed` is the seed of each trial."""


class TuneConfig(TrainConfig):
    """All settings of `raycap tune`: those of `raycap train` for each trial, and of the search.

    Trials are compared by `validation.metric`.
    """

    tune: SearchConfig = SearchConfig()
    """The search: its space, algorithm and budget."""

    def base(self) -> TrainConfig:
        """Return the training settings that all trials start from."""
        return TrainConfig.model_validate(self.model_dump(exclude={"tune"}))
