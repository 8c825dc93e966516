"""The registry of metrics: names, order, and what one metric has to provide."""

from contextlib import ExitStack

import numpy as np
import pytest

from raycap import schema
from raycap.config import ExternalMetricsConfig
from raycap.evaluation.metric import Batch, Metric
from raycap.evaluation.registry import METRICS, SCORE_NAMES, SCORES
from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.results.labels import LENGTH

CAPTIONS = [["a", "cat"], [], ["a", "dog", "runs"]]
REFERENCES = [[["a", "cat", "sits"]], [["the", "man"], ["a", "man"]], [["a", "dog"]]]
BATCH = Batch(
    captions=CAPTIONS,
    has_caption=np.array([True, False, True]),
    references=REFERENCES,
    frequencies=DocumentFrequencies.of(REFERENCES),
    corpus=Corpus.of(CAPTIONS, REFERENCES),
)
WITHOUT_PROGRAMS = [
    metric for metric in METRICS if metric.open is not None and not metric.memory_bytes
]


def test_every_score_of_the_schema_has_one_metric() -> None:
    names = [name for metric in METRICS for name in metric.columns]
    assert len(set(names)) == len(names)
    assert set(names) == {*schema.METRICS, LENGTH}
    assert SCORE_NAMES == schema.METRICS
    assert SCORES == schema.SCORES


@pytest.mark.parametrize("metric", WITHOUT_PROGRAMS, ids=lambda metric: str(metric.name))
def test_corpus_images_and_sums_agree(metric: Metric) -> None:
    external = ExternalMetricsConfig()
    if metric.open is None or metric.why_skipped(external):
        return
    with ExitStack() as opened:
        statistics = metric.open(external, opened)(BATCH)
    assert len(statistics) == len(CAPTIONS)
    columns = np.concatenate(metric.summands(statistics), axis=1, dtype=np.float64)
    corpus = metric.of_corpus(statistics)
    of_sums = metric.of_sums(columns.sum(axis=0))
    assert list(metric.of_images(statistics)) == list(corpus) == list(metric.columns)
    assert {name: float(value) for name, value in of_sums.items()} == pytest.approx(corpus)


def test_the_mean_length_is_that_of_captions_that_exist() -> None:
    (metric,) = (metric for metric in METRICS if metric.name == LENGTH)
    assert metric.open is not None
    with ExitStack() as opened:
        statistics = metric.open(ExternalMetricsConfig(), opened)(BATCH)
    assert metric.of_corpus(statistics) == {LENGTH: 2.5}
