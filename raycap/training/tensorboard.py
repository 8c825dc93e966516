"""Event files for TensorBoard: one an epoch, so that a resumed run writes none of them twice."""

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

from raycap.errors import ConfigError
from raycap.storage.base import Store
from raycap.training.state import EpochRecord

EVENTS = "tensorboard/"


def check_tensorboard() -> None:
    """Make sure that event files can be written.

    Raises:
        ConfigError: the package that writes them is missing.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "train.tensorboard=true needs the extra raycap[tensorboard]: "
            "pip install 'raycap[tensorboard]'"
        )


def write_events(store: Store, record: EpochRecord) -> None:
    """Write what an epoch came to. TensorBoard reads the files of a run in order of their names."""
    check_tensorboard()
    from tensorboardX import SummaryWriter  # noqa: PLC0415  an optional extra

    with TemporaryDirectory(prefix="raycap-events-") as folder:
        with SummaryWriter(folder) as writer:
            for name, value in _scalars(record).items():
                writer.add_scalar(name, value, record.num_steps)
        (file,) = Path(folder).iterdir()
        store.upload(f"{EVENTS}events.out.tfevents.{record.epoch:06d}", file)


def _scalars(record: EpochRecord) -> dict[str, float]:
    return {
        "loss/train": record.train_loss,
        "loss/fitted": record.fitted_loss,
        "loss/validation": record.validation_loss,
        "loss/gap": record.gap,
        "lr": record.lr,
        "images_per_s": record.images_per_s,
        **{f"scores/{name}": value for name, value in record.scores.items()},
    }
