"""A cascade: a second model captions the images whose caption by the first model is weak.

It runs as a second pass over the committed parts. A part whose footer counts rows that await the
second model is captioned partially, and rewritten with the new captions. Resuming needs nothing
else: a run that is killed between the passes finds the same rows again.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.ledger import Totals
from raycap.config import CaptionConfig, ModelConfig
from raycap.errors import ConfigError
from raycap.models.base import ModelSource
from raycap.models.endpoint.kind import check_endpoint
from raycap.models.fitting import fit_images
from raycap.models.sources import (
    ENDPOINT,
    check_arithmetic,
    find_asked,
    settled_generation,
    settled_model,
)
from raycap.models.vlm.vllm_requests import check_backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """The second model of a run, and the threshold for using it."""

    model: ModelSource
    """The second model."""
    below: float
    """Captions with a lower `logprob` are weak."""
    config: CaptionConfig
    """The run's settings for the second model."""
    is_second: bool = False
    """Whether the current pass is that of the second model."""

    def kept(self, answered: pa.Table) -> pa.Table:
        """Return the rows to write: if the second model fails, the first caption is kept."""
        if not self.is_second:
            return answered
        return answered.filter(pc.equal(answered[schema.STATUS], schema.STATUS_OK))

    def counts(self, rows: pa.Table, answered: pa.Table) -> dict[str, int]:
        """Return the counts for the footer of a part.

        Args:
            rows: The whole part, as it is written.
            answered: The rows that this pass has captioned.
        """
        awaiting = awaits(rows, self.model.name, self.below)
        is_own = pc.not_equal(rows[schema.ATTEMPTS], schema.NO_ATTEMPTS)
        own = pc.and_(is_own, pc.equal(rows[schema.MODEL], self.model.name))
        return {
            "num_awaiting": 0 if self.is_second else pc.sum(awaiting).as_py() or 0,
            "num_second": pc.sum(own).as_py() or 0,
            "num_second_failed": len(answered) - len(self.kept(answered)),
        }

    def sum_up(self, totals: Totals) -> dict[str, Any]:
        """Return the results of the second model, for the summary."""
        return {
            "model": self.model.identity(),
            "below": self.below,
            "num_images": totals.num_second + totals.num_second_failed,
            "num_failed": totals.num_second_failed,
        }

    def describe(self) -> dict[str, Any]:
        """Return the part of the cascade that belongs to a run's fingerprint."""
        return {
            "model": {**self.model.identity(), **arithmetic(self.config)},
            "below": self.below,
            "generation": self.config.generation.model_dump(mode="json"),
        }


def arithmetic(config: CaptionConfig) -> dict[str, Any]:
    """Return the settings of a model, or of its servers, that decide its captions."""
    found = config.model.arithmetic()
    asked = config.endpoint.answering() if config.model.backend == ENDPOINT else {}
    return {**found, ENDPOINT: asked} if asked else found


def awaits(rows: pa.Table, model: str, below: float) -> pa.ChunkedArray:
    """Return which CAPTIONS rows have a weak caption that is not by the second model.

    A copy of an equal image's caption is none of them: the second model had the original.

    Args:
        rows: The rows.
        model: Name of the second model.
        below: Captions with a lower `logprob` are weak.
    """
    is_weak = pc.less(rows[schema.LOGPROB], pa.scalar(below, pa.float32()))
    is_other = pc.fill_null(pc.not_equal(rows[schema.MODEL], model), True)
    is_own = pc.not_equal(rows[schema.ATTEMPTS], schema.NO_ATTEMPTS)
    return pc.and_(is_own, pc.and_(pc.fill_null(is_weak, False), is_other))


def find_cascade(config: CaptionConfig, first: ModelSource) -> Cascade | None:
    """Find the second model of the settings; None if they name none.

    Args:
        config: The settings, as they were set.
        first: The first model.

    Raises:
        ConfigError: both models are the same.
        ModelError: the second model cannot be found, or does not support its precision or backend.
    """
    cascade = config.cascade
    if cascade.model is None or cascade.below is None:
        return None
    model = ModelConfig(
        name=cascade.model,
        trust=config.model.trust,
        args=cascade.args,
        precision=cascade.precision,
        backend=cascade.backend,
        vllm_args=cascade.vllm_args,
    )
    found = _fitted(find_asked(model), config)
    if found.name == first.name:
        raise ConfigError(
            f"cascade.model: {found.name} is model.name too: name a larger model",
            setting="cascade.model",
        )
    check_arithmetic(found, model)
    prompted = config.generation.model_copy(update={"prompt": cascade.prompt})
    generation = settled_generation(prompted, found)
    check_backend(found, model, generation)
    endpoint = cascade.endpoint or config.endpoint
    check_endpoint(model, endpoint, generation, "cascade")
    settled = {
        "generation": generation,
        "model": settled_model(model, found),
        "endpoint": endpoint,
    }
    resolved = config.model_copy(update=settled)
    return Cascade(model=found, below=cascade.below, config=resolved)


def _fitted(found: ModelSource, config: CaptionConfig) -> ModelSource:
    """Return the second model with its target; its own settings replace those of the first."""
    own = config.cascade
    if own.fit is None:
        return fit_images(found, config.image)
    fitted = {"fit": own.fit, "max_pixels_model": own.max_pixels_model}
    return fit_images(found, config.image.model_copy(update=fitted), "cascade")
