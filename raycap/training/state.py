"""Position of a training run: the content of a checkpoint besides tensors."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError
from raycap.results.training import EpochRecord


@dataclass(slots=True, kw_only=True)
class State:
    """How far a run is."""

    epoch: int = 0
    """Epochs that are over."""
    step: int = 0
    """Steps of the epoch that are done."""
    num_steps: int = 0
    """Steps of all epochs that are done."""
    max_captions: int
    """Captions of a micro-batch, at the most."""
    loss_sum: float = 0.0
    """Of the epoch's steps."""
    num_tokens: int = 0
    """Of the epoch's steps."""
    num_images: int = 0
    """Of the epoch's steps."""
    num_unreadable: int = 0
    """In the epoch."""
    train_s: float = 0.0
    """Time of the epoch's steps, over all invocations."""
    history: list[EpochRecord] = field(default_factory=list)

    def end_epoch(self, record: EpochRecord) -> None:
        """Go on to the next epoch."""
        self.history.append(record)
        self.epoch += 1
        self.step = self.num_tokens = self.num_images = self.num_unreadable = 0
        self.loss_sum = self.train_s = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values; floats keep every digit."""
        return asdict(self)


_FORM = TypeAdapter(State)


def read_state(values: dict[str, Any]) -> State:
    """Read what `State.to_json` gave.

    Raises:
        DatasetError: it is something else.
    """
    try:
        return _FORM.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(f"{place}: {first['msg']}") from error
