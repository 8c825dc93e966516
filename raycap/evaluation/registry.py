"""The registry of metrics. A new metric is a module with a Metric, and one line here."""

import pyarrow as pa

from raycap import schema
from raycap.evaluation import clip, meteor, metric, spice
from raycap.evaluation.metric import Metric
from raycap.results.labels import LENGTH

METRICS: tuple[Metric, ...] = (
    metric.BLEU,
    metric.ROUGE_L,
    metric.CIDER_D,
    spice.SPICE,
    clip.CLIP_SCORE,
    clip.REF_CLIP_SCORE,
    metric.LENGTHS,
    meteor.METEOR,
)
"""In the order of columns of resampled sums, on which the last bit of intervals depends: append."""

SCORE_NAMES = tuple(
    dict.fromkeys(
        [
            *schema.METRICS,
            *(name for known in METRICS for name in known.columns if name != LENGTH),
        ]
    )
)
"""Every score, in the order of tables."""

SCORES = pa.schema(
    [
        *schema.SCORES,
        *(pa.field(name, pa.float64()) for name in SCORE_NAMES if name not in schema.METRICS),
    ]
)
"""`schema.SCORES`, followed by the scores of metrics that it does not list."""
