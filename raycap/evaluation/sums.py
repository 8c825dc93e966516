"""A system's scores as columns whose sums over images say all: corpus scores, and resamples.

Every corpus score is a function of sums over images (see `metrics.bootstrap`), so one function
gives both the score itself and its value in each resample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raycap import schema
from raycap.evaluation.meteor import corpus_meteor
from raycap.evaluation.scoring import SystemScores
from raycap.metrics.bleu import NUM_BLEU_COUNTS, corpus_bleu
from raycap.metrics.scores import mean

LENGTH = "length"
"""Mean length of the captions, in tokens: compared between systems as metrics are."""

METRICS = (
    *schema.BLEU,
    schema.ROUGE_L,
    schema.CIDER_D,
    schema.METEOR,
    schema.SPICE,
    schema.CLIP_SCORE,
    schema.REF_CLIP_SCORE,
)
"""Every metric, in the order of tables."""

Values = dict[str, Float64[np.ndarray, "*batch"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSums:
    """All scored images of one system, in order."""

    bleu_counts: Int64[np.ndarray, "images 10"]
    means: dict[str, Float64[np.ndarray, " images"]]
    """Scores whose mean is the corpus's; NaN for an image without one, which does not count."""
    meteor: Float64[np.ndarray, "images 23"] | None
    lengths: Int64[np.ndarray, " images"]
    has_caption: Bool[np.ndarray, " images"]

    @classmethod
    def of(
        cls,
        chunks: Sequence[SystemScores],
        more: dict[str, Float64[np.ndarray, " images"]] | None = None,
    ) -> "SystemSums":
        """Put the chunks of a system together.

        Args:
            chunks: in order.
            more: further scores of each image, such as CLIPScore.
        """
        means = {
            schema.ROUGE_L: np.concatenate([chunk.images.rouge_l for chunk in chunks]),
            schema.CIDER_D: np.concatenate([chunk.images.cider_d for chunk in chunks]),
        }
        spice = [chunk.spice for chunk in chunks]
        if all(values is not None for values in spice):
            means[schema.SPICE] = np.concatenate([v for v in spice if v is not None])
        meteor = [chunk.meteor for chunk in chunks]
        found = [rows for rows in meteor if rows is not None]
        return cls(
            bleu_counts=np.concatenate([chunk.images.bleu_counts for chunk in chunks]),
            means=means | (more or {}),
            meteor=np.concatenate(found) if len(found) == len(meteor) else None,
            lengths=np.concatenate([chunk.lengths for chunk in chunks]),
            has_caption=np.concatenate([chunk.has_caption for chunk in chunks]),
        )

    def columns(self) -> list[np.ndarray]:
        """Give what is to be summed up, for `values`: blocks of columns, a row an image."""
        found: list[np.ndarray] = [self.bleu_counts]
        for scores in self.means.values():
            is_there = ~np.isnan(scores)
            found += [np.where(is_there, scores, 0.0)[:, None], is_there[:, None]]
        found += [self.lengths[:, None], self.has_caption[:, None]]
        if self.meteor is not None:
            found.append(self.meteor)
        return found

    def values(self, sums: Float64[np.ndarray, "*batch k"]) -> Values:
        """Compute the corpus's scores from sums of `columns`; NaN where nothing was summed up."""
        bleu = corpus_bleu(sums[..., :NUM_BLEU_COUNTS])
        found: Values = {name: bleu[..., order] for order, name in enumerate(schema.BLEU)}
        place = NUM_BLEU_COUNTS
        for name in (*self.means, LENGTH):
            found[name] = _quotient(sums[..., place], sums[..., place + 1])
            place += 2
        if self.meteor is not None:
            found[schema.METEOR] = corpus_meteor(sums[..., place:])
        return found

    def corpus(self) -> dict[str, float | None]:
        """Compute the corpus's scores, to the last bit the same in whatever order images come.

        None where no image has a score.
        """
        found: dict[str, float | None] = {}
        bleu = corpus_bleu(self.bleu_counts.sum(axis=0))
        found.update(zip(schema.BLEU, bleu.tolist(), strict=True))
        for name, scores in self.means.items():
            there = scores[~np.isnan(scores)]
            found[name] = mean(there) if len(there) else None
        if self.meteor is not None:
            found[schema.METEOR] = float(corpus_meteor(self.meteor.sum(axis=0)))
        return found


def _quotient(
    sums: Float64[np.ndarray, "*batch"], counts: Float64[np.ndarray, "*batch"]
) -> Float64[np.ndarray, "*batch"]:
    empty = np.full(sums.shape, np.nan)
    return np.asarray(np.divide(sums, counts, out=empty, where=counts > 0))
