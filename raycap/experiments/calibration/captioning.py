"""Actors that hold a model and caption the slice with one setting after another."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from jaxtyping import UInt8
from ray.exceptions import RayError

from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import Batch, WatchedCaptioner, caption_all, hang_limit_s
from raycap.captioning.resources import fit_resources, threads_per_actor
from raycap.cluster.failures import explain
from raycap.config import CalibrateConfig, GenerationConfig, ModelConfig
from raycap.errors import ImageError, ModelError
from raycap.experiments.calibration.trials import REMEDY
from raycap.images.isolation import HangWatch
from raycap.models.base import AdjustableCaptioner, BatchRange, ModelSource
from raycap.models.load import load_captioner
from raycap.models.process import use_threads

_AHEAD = 2  # blocks per actor, including the one at work
_RESTARTS = 3
_GRACE_S = 20.0  # for an actor to finish its block when a run is stopped
_GPU_BATCH, _CPU_BATCH = 32, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSpec:
    """Everything that an actor needs to know."""

    source: ModelSource
    model: ModelConfig
    generation: GenerationConfig
    """The settings to start from."""
    batch_size: int
    torch_threads: int
    hang_limit_s: float
    """Seconds per batch after which the actor ends itself."""


class CalibrationActor:
    """Holds a model, which the first call loads."""

    def __init__(self, spec: CaptionSpec) -> None:
        self._spec = spec
        self._batch_size = BatchSize(BatchRange.fixed(spec.batch_size))
        self._loaded: AdjustableCaptioner | None = None
        self._watch = HangWatch(spec.hang_limit_s)
        use_threads(spec.torch_threads)

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the number of the model's own tokens per caption."""
        return self._captioner().count_tokens(captions)

    def caption(
        self, pixels: UInt8[np.ndarray, "b h w 3"], generation: GenerationConfig
    ) -> list[str | None]:
        """Caption images with a setting; None for images that the model fails on.

        Raises:
            ModelError: the model cannot be loaded, fails on every image, or cannot write captions
                of that length.
        """
        try:
            captioner = self._captioner().with_generation(generation)
        except ModelError as error:
            raise ModelError(
                f"{error}, or search.max_length_ratios", setting="search.max_length_ratios"
            ) from error
        watched = WatchedCaptioner(captioner, self._watch)
        outcomes = caption_all(watched, Batch(pixels), self._batch_size)
        return [None if isinstance(found, ImageError) else found[0].text for found in outcomes]

    def _captioner(self) -> AdjustableCaptioner:
        if self._loaded is None:
            spec = self._spec
            loaded = load_captioner(spec.source, spec.model, spec.generation)
            if not isinstance(loaded, AdjustableCaptioner):
                raise ModelError(
                    f"{spec.source.name}: a model of kind {spec.source.kind!r} has no lengths to "
                    "calibrate; choose another model",
                    uri=spec.source.name,
                )
            self._loaded = loaded
        return self._loaded


class Captioners:
    """A pool of actors; use as a context manager. Ray must be connected."""

    def __init__(self, source: ModelSource, config: CalibrateConfig, *, is_fixed: bool) -> None:
        """Start the actors.

        Args:
            source: the model.
            config: all settings.
            is_fixed: whether the cluster cannot grow.

        Raises:
            ConfigError: the requested actors do not fit a cluster that cannot grow.
        """
        engine = config.engine
        fitted = fit_resources(engine, uses_gpus=True, is_fixed=is_fixed)
        # As many as fit now; a configured number waits for the cluster to grow.
        count = fitted.actors.min if engine.num_actors else fitted.actors.max
        self.batch_size = engine.batch_size or (_GPU_BATCH if fitted.gpus_per_actor else _CPU_BATCH)
        spec = CaptionSpec(
            source=source,
            model=config.model,
            generation=config.generation,
            batch_size=self.batch_size,
            torch_threads=threads_per_actor(engine, count),
            hang_limit_s=hang_limit_s(engine, config.model),
        )
        actor: Any = ray.remote(CalibrationActor).options(
            num_cpus=fitted.cpus_per_actor,
            num_gpus=fitted.gpus_per_actor,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
            # Explicit, because an actor of a Ray Tune trial would otherwise have to fit what the
            # trial reserved.
            scheduling_strategy="DEFAULT",
        )
        self._actors = [actor.remote(spec) for _ in range(count)]

    def __enter__(self) -> "Captioners":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the number of the model's own tokens per caption; raises as `caption` does."""
        try:
            counts: list[int] = ray.get(self._actors[0].count_tokens.remote(captions))
        except RayError as error:
            raise explain(error, REMEDY) from error
        return counts

    def caption(
        self, blocks: Sequence[Any], generation: GenerationConfig
    ) -> Iterator[list[str | None]]:
        """Caption blocks of pixels with a setting; yield the captions of each block, in order.

        Raises:
            ModelError: the model cannot be loaded or run.
            RunStopped: actors died repeatedly.
        """
        running: deque[Any] = deque()
        try:
            for number, block in enumerate(blocks):
                actor = self._actors[number % len(self._actors)]
                running.append(actor.caption.remote(block, generation))
                if len(running) == _AHEAD * len(self._actors):
                    yield ray.get(running.popleft())
            while running:
                yield ray.get(running.popleft())
        except RayError as error:
            raise explain(error, REMEDY) from error
        finally:
            _abandon(running)


def _abandon(calls: Sequence[Any]) -> None:
    """Cancel calls that are no longer needed, and wait, so that no actor is killed while working.

    Ray would report that to the user as a failure.
    """
    for call in calls:
        ray.cancel(call)
    if calls:
        ray.wait(list(calls), num_returns=len(calls), timeout=_GRACE_S)
