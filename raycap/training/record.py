"""Claim of an output by a training run: `run.json`, with the fingerprint of the run."""

from typing import Any

from raycap.config import TrainConfig
from raycap.results.training import read_training
from raycap.runs.records import claim_run
from raycap.storage.base import Store
from raycap.training.checkpoints import CHECKPOINTS, find_checkpoints

LOCK = "lock.json"


def fingerprint(dataset: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Say what decides a run's model: two runs alike in this may share an output.

    How the work is spread does not, as long as the images of a step stay the same ones.
    """
    train = config.train.model_dump(
        mode="json", exclude={"batch_size", "num_accumulated", "checkpoint_every_s", "tensorboard"}
    )
    sections = {"architecture", "blip", "augment", "optimizer", "validation", "generation", "image"}
    return {
        "dataset": dataset,
        "kind": config.kind,
        "init": config.init,
        **config.model_dump(mode="json", include=sections),
        "train": {**train, "global_batch": config.train.batch_size * config.engine.num_workers},
        "engine": {"shuffle_images": config.engine.shuffle_images},
    }


def claim_output(store: Store, mark: dict[str, Any], config: TrainConfig) -> None:
    """Create `run.json`, or make sure that the one that stands is of the same run.

    A run that came to no step, because a setting was wrong, say, gives way to another.

    Raises:
        ConfigError: the output holds other files.
        RunConflict: the output belongs to another run; the message shows the difference.
    """
    claim_run(store, mark, config, lock=LOCK, gives_way=lambda: _gives_way(store))


def _gives_way(store: Store) -> bool:
    """Clear what a run that came to no step has left; say whether it is such a one."""
    if _has_begun(store):
        return False
    store.delete_all(CHECKPOINTS)
    return True


def _has_begun(store: Store) -> bool:
    """Whether a run has left anything that another would destroy."""
    return bool(find_checkpoints(store)) or read_training(store) is not None
