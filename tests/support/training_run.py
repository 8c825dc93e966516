"""Training by the tiny model without Ray: the loop of one worker, in this process."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from raycap.config import StorageConfig, TrainConfig
from raycap.results.training import TrainingProgress
from raycap.runs.opening import Claim, claim_output
from raycap.storage.stores import open_store
from raycap.training.checkpoints import State
from raycap.training.data.feed import Feed
from raycap.training.loop import End, Loop
from raycap.training.preparing import Job, Models, prepare
from tests.support.tiny_trainable import build_tiny, load_tiny
from tests.support.training_stream import make_spec, one_worker, tables_of

TINY = Models(build=build_tiny, load=load_tiny)


def tiny_models(*, delay_s: float = 0.0, most_images: int | None = None) -> Models:
    """The tiny model, slow or short of memory."""
    return Models(
        build=build_tiny, load=partial(load_tiny, delay_s=delay_s, most_images=most_images)
    )


@dataclass
class Told:
    """A reporter that keeps what it is told, and asks to stop after some steps."""

    stop_after: int | None = None
    progress: list[TrainingProgress] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def wants_stop(self) -> bool:
        return self.stop_after is not None and len(self.steps) >= self.stop_after

    @property
    def steps(self) -> list[TrainingProgress]:
        """What was told after each step."""
        return [p for p in self.progress if not p.is_validating and p.epoch_record is None]

    def tell(self, progress: TrainingProgress) -> None:
        self.progress.append(progress)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@dataclass
class Ended:
    end: End
    state: State
    told: Told


def make_job(
    dataset: str | Path,
    output: str | Path,
    config: TrainConfig,
    *,
    models: Models = TINY,
    fingerprint: dict[str, Any] | None = None,
    lock_token: str = "",
) -> Job:
    """Describe a training run as its driver does."""
    spec = make_spec(
        str(dataset),
        batch_size=config.train.batch_size,
        num_sampled=config.validation.num_images,
        augment=config.augment,
    )
    return Job(
        dataset=str(dataset),
        output=str(output),
        config=config,
        plan=spec.plan,
        samples=spec.samples,
        models=models,
        origin={"dataset": "scenes"},
        fingerprint=fingerprint or {},
        lock_token=lock_token,
    )


def train_here(
    dataset: str | Path,
    output: str | Path,
    config: TrainConfig,
    *,
    models: Models = TINY,
    stop_after: int | None = None,
) -> Ended:
    """Train from the newest checkpoint on, as a worker of Ray Train does."""
    store = open_store(str(output), StorageConfig())
    claim = Claim({"test": True}, config)
    claim_output(store, claim)
    job = make_job(dataset, output, config, models=models, fingerprint=claim.fingerprint)
    told = Told(stop_after=stop_after)
    workers = one_worker()
    run, state, spec = prepare(job, store, workers, told)
    tables = tables_of(spec, epoch=state.epoch, step=state.step, num_epochs=config.train.num_epochs)
    # Whole beforehand: here, augmentation would share torch's random numbers with the loop.
    with Feed(iter(list(tables)), workers, run.learner.trainable, 60.0) as feed:
        end = Loop(run, feed, state).train()
    return Ended(end, state, told)
