"""Position of a training run: the content of a checkpoint besides tensors."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError
from raycap.results.training import EpochRecord


@dataclass(slots=True, kw_only=True)
class State:
    """Position of a training run."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps done in the epoch."""
    num_steps: int = 0
    """Steps done in all epochs."""
    max_captions: int
    """Maximum captions per micro-batch."""
    loss_sum: float = 0.0
    """Sum over the epoch's steps, as are the numbers below."""
    num_tokens: int = 0
    num_images: int = 0
    num_unreadable: int = 0
    train_s: float = 0.0
    """Seconds, over all invocations."""
    history: list[EpochRecord] = field(default_factory=list)

    def end_epoch(self, record: EpochRecord) -> None:
        """Advance to the next epoch."""
        self.history.append(record)
        self.epoch += 1
        self.step = self.num_tokens = self.num_images = self.num_unreadable = 0
        self.loss_sum = self.train_s = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values; floats keep every digit."""
        return asdict(self)


_FORM = TypeAdapter(State)


def read_state(values: dict[str, Any]) -> State:
    """Read the output of `State.to_json`.

    Raises:
        DatasetError: the values are not a state.
    """
    try:
        return _FORM.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(f"{place}: {first['msg']}") from error
