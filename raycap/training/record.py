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

from pydantic import TypeAdapter

from raycap.errors import ObjectNotFound
from raycap.runs.records import encode_json, read_as
from raycap.storage.base import Store
from raycap.training.state import EpochRecord

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
