"""What an output remembers of its run.

run.json              created once: the fingerprint; another run is refused
config.json           all settings of the last invocation, resolved
lock.json             held while a run writes
augmentation.jpg      training images, as they are and as the first epochs see them
attention.jpg         where a `hybrid` looks, word by word, in the best epoch so far
history.jsonl         a line an epoch: see `EpochRecord`
checkpoints/          what a run goes on from: see `train.checkpoints`; gone when it is complete
model/                the best model so far, by validation.metric: `raycap caption --model` runs it
last/                 the model after the last epoch
tensorboard/          with train.tensorboard: event files, one an epoch
nonfinite.json        the images of a step whose loss was no number
training.json         the Training below; written last: with it, the run is complete
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from raycap.config import TrainConfig
from raycap.errors import ObjectNotFound
from raycap.runs.records import claim_run, encode_json, read_as
from raycap.storage.base import Store
from raycap.training.checkpoints import CHECKPOINTS, find_checkpoints
from raycap.training.state import EpochRecord

LOCK = "lock.json"
TRAINING = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a run came to."""

    output: str
    dataset: str
    kind: str
    end: str
    """`finished`, or `exhausted` where early stopping ended it."""
    num_images: int
    """Of the training split."""
    num_epochs: int
    """That were trained."""
    num_steps: int
    global_batch: int
    """Images a step."""
    micro_batch: int
    """Captions that a worker took at a time."""
    metric: str
    """What the best epoch was chosen by."""
    best: EpochRecord
    """In `model/`."""
    last: EpochRecord
    """In `last/`."""
    history: list[EpochRecord]
    """All epochs, as in `history.jsonl`."""
    overfits_since: int | None
    """The epoch from which validation loss rose while training loss fell."""
    images_per_s: float
    """Of all training steps."""
    wall_s: float
    """Seconds that the last invocation took, Ray's start included."""
    peak_memory_bytes: int = 0
    """The most that the first worker's process held in the last invocation."""
    peak_device_bytes: int = 0
    """The same of its accelerator's memory; 0 on a CPU."""
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str = ""


_FORM = TypeAdapter(Training)


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


def read_training(store: Store) -> Training | None:
    """Read `training.json`; None where the run is not complete.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        found: Training = read_as(
            _FORM, store, TRAINING, "restore it, or train again in a new output"
        )
    except ObjectNotFound:
        return None
    return found


def write_training(store: Store, training: Training) -> None:
    """Write `training.json`, the last file of a run."""
    store.write(TRAINING, encode_json(asdict(training)))
