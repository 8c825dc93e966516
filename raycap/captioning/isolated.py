"""A captioner in a process of its own: what it does not survive is an exception, image by image."""

import logging
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from raycap.captioning.loading import RunSpec
from raycap.config import EngineConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.isolation import HangWatch, Isolated, ProcessDied
from raycap.models.base import Caption, Captioner
from raycap.models.device import use_threads
from raycap.models.load import load_captioner

logger = logging.getLogger(__name__)

_LEAST_LIMIT_S = 10.0
_SLOWNESS = 20.0  # an image may take so many times as long as a plain grey one
_COMPILING = 5.0  # a batch of a new size is compiled first, which takes minutes

CaptionBatch = Callable[[UInt8[np.ndarray, "b h w 3"]], list[Caption]]


def hang_limit_s(engine: EngineConfig, model: ModelConfig) -> float:
    """How long a batch may take before it counts as hanging."""
    return (_COMPILING if model.compile else 1.0) * engine.hang_timeout_s


class WatchedCaptioner:
    """A captioner whose hang ends this process."""

    def __init__(self, captioner: Captioner, watch: HangWatch) -> None:
        self._captioner = captioner
        self._watch = watch

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch."""
        with self._watch():
            return self._captioner.caption(pixels)


class IsolatedCaptioner:
    """A captioner in a process of its own, which is replaced when it dies or hangs.

    What a plain grey image takes, before all others, says how long a batch may take: so a hang is
    noticed in seconds where that image takes fractions of one.
    """

    def __init__(self, spec: RunSpec) -> None:
        """Load nothing yet: that is left to the first batch."""
        target = spec.model.target
        self._grey = np.full((1, target.height_px, target.width_px, 3), 128, np.uint8)
        self._limit_s = hang_limit_s(spec.config.engine, spec.config.model)
        self._is_compiled = spec.config.model.compile
        self._process: Isolated[UInt8[np.ndarray, "b h w 3"], list[Caption]] = Isolated(
            _Loading(spec)
        )
        self._image_s = 0.0
        self.num_deaths = 0

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch.

        Raises:
            ProcessDied: the model's process ended over it, or took too long.
            ModelError: the model does not survive a grey image either.
        """
        if not self._process.is_running:
            self._warm_up()
        try:
            return self._process(pixels, self._limit_for(len(pixels)))
        except ProcessDied as error:
            self.num_deaths += 1
            logger.warning("model_process_died images=%d reason=%s", len(pixels), error)
            raise

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _limit_for(self, num_images: int) -> float:
        if self._is_compiled:
            return self._limit_s  # the grey image says nothing of how long compiling takes
        likely_s = _SLOWNESS * self._image_s * num_images
        return min(self._limit_s, max(_LEAST_LIMIT_S, likely_s))

    def _warm_up(self) -> None:
        try:
            self._process(self._grey)  # loads the model, which may take long
            started = time.perf_counter()
            self._process(self._grey, self._limit_s)
            self._image_s = time.perf_counter() - started
        except ProcessDied as error:
            raise ModelError(
                f"the model does not survive a plain grey image: {error}; does memory suffice? "
                "Use a smaller model, fewer engine.num_actors, or --debug to see what it prints"
            ) from error


class _Loading:
    """Loads the captioner, in the process where it is called."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec

    def __call__(self) -> CaptionBatch:
        spec = self._spec
        use_threads(spec.torch_threads)
        return load_captioner(spec.model, spec.config.model, spec.config.generation).caption
