"""Corpus scores from sums over images, and resamples of them: against doing it image by image."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raycap import schema
from raycap.config import BootstrapConfig
from raycap.evaluation.meteor import corpus_meteor
from raycap.evaluation.metric import Values
from raycap.evaluation.scoring import SystemScores
from raycap.evaluation.sums import SystemSums, resample
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.bootstrap import Bootstrap
from raycap.metrics.diversity import count_diversity
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.scores import mean, score_images
from raycap.results.labels import LENGTH
from tests.support.evaluation_samples import sentences

NUM_IMAGES = 40
REFERENCES = [[text.split(), text.split()[1:]] for text in sentences(NUM_IMAGES, seed=0)]
REFERENCE_SUMS = np.array([(sum(map(len, image)), len(image)) for image in REFERENCES], np.int64)


def chunk(seed: int, rows: slice, *, meteor: bool = False) -> SystemScores:
    """Score some images; every tenth has no caption."""
    has_caption = np.arange(NUM_IMAGES)[rows] % 10 != 9
    pairs = zip(sentences(NUM_IMAGES, seed)[rows], has_caption, strict=True)
    tokens = [text.split() if is_there else [] for text, is_there in pairs]
    counts = np.random.default_rng(seed).integers(1, 9, (NUM_IMAGES, 23)).astype(np.float64)
    images = score_images(tokens, REFERENCES[rows], DocumentFrequencies.of(REFERENCES))
    lengths = np.array([len(words) for words in tokens], np.int64)
    return SystemScores(
        statistics={
            schema.BLEU[0]: images.bleu_counts,
            schema.ROUGE_L: images.rouge_l,
            schema.CIDER_D: images.cider_d,
            LENGTH: np.where(has_caption, lengths, np.nan),
            **({schema.METEOR: counts[rows]} if meteor else {}),
        },
        has_caption=has_caption,
        lengths=lengths,
        diversity=count_diversity(tokens),
    )


def system(seed: int, **more: Any) -> SystemSums:
    return SystemSums.of([chunk(seed, slice(None), **more)])


def summed(sums: SystemSums, weights: np.ndarray) -> Values:
    return sums.values(weights @ np.concatenate(sums.columns(), axis=1, dtype=np.float64))


def repeated(sums: SystemSums, images: np.ndarray) -> SystemSums:
    """Take images, some maybe several times."""
    return SystemSums(
        statistics={name: values[images] for name, values in sums.statistics.items()},
        lengths=sums.lengths[images],
        has_caption=sums.has_caption[images],
    )


def config(**changes: Any) -> BootstrapConfig:
    return BootstrapConfig(**{"num_resamples": 30, "seed": 3, **changes})


# Sums


def test_chunks_put_together_are_the_whole() -> None:
    whole = system(1, meteor=True)
    parts = SystemSums.of([chunk(1, rows, meteor=True) for rows in (slice(0, 7), slice(7, None))])
    np.testing.assert_array_equal(parts.lengths, whole.lengths)
    np.testing.assert_array_equal(parts.has_caption, whole.has_caption)
    assert parts.statistics.keys() == whole.statistics.keys()
    for name, statistics in parts.statistics.items():
        np.testing.assert_array_equal(statistics, whole.statistics[name])
    assert parts.corpus() == whole.corpus()


def test_corpus_scores_are_those_of_the_metrics() -> None:
    found = chunk(1, slice(None), meteor=True).statistics
    sums = system(1, meteor=True)
    assert sums.corpus() == {
        **dict(zip(schema.BLEU, corpus_bleu(found[schema.BLEU[0]].sum(axis=0)), strict=True)),
        schema.ROUGE_L: mean(found[schema.ROUGE_L]),
        schema.CIDER_D: mean(found[schema.CIDER_D]),
        LENGTH: sums.lengths.sum() / 36,
        schema.METEOR: corpus_meteor(found[schema.METEOR].sum(axis=0)),
    }


def test_sums_over_all_images_give_the_corpus_scores() -> None:
    sums = system(1, meteor=True)
    values = summed(sums, np.ones((1, NUM_IMAGES)))
    assert {name: float(value[0]) for name, value in values.items()} == pytest.approx(sums.corpus())


def test_images_without_a_score_do_not_count() -> None:
    scores = np.where(np.arange(NUM_IMAGES) % 2, np.nan, 0.5 + np.arange(NUM_IMAGES))
    more = {schema.CLIP_SCORE: scores, schema.REF_CLIP_SCORE: np.full(NUM_IMAGES, np.nan)}
    sums = SystemSums.of([chunk(1, slice(None))], more)
    found = sums.corpus()
    assert found[schema.CLIP_SCORE] == np.nanmean(scores)
    assert found[schema.REF_CLIP_SCORE] is None
    values = summed(sums, np.ones((2, NUM_IMAGES)))
    assert values[schema.CLIP_SCORE].tolist() == pytest.approx([np.nanmean(scores)] * 2)
    assert np.isnan(values[schema.REF_CLIP_SCORE]).all()


def test_a_metric_that_failed_on_a_chunk_has_no_value() -> None:
    parts = [chunk(1, slice(0, 7), meteor=True), chunk(1, slice(7, None), meteor=False)]
    spiced = [
        replace(parts[0], statistics={**parts[0].statistics, schema.SPICE: np.ones(7)}),
        parts[1],
    ]
    for chunks in (parts, spiced):
        assert {schema.METEOR, schema.SPICE}.isdisjoint(SystemSums.of(chunks).corpus())


# Resamples


def test_resamples_are_the_corpus_scores_of_the_images_drawn() -> None:
    sums = system(1, meteor=True)
    bootstrap = Bootstrap(num_images=NUM_IMAGES, num_resamples=30, seed=3)
    drawn = bootstrap.sums(np.eye(NUM_IMAGES)).astype(np.int64)
    expected = [repeated(sums, np.repeat(np.arange(NUM_IMAGES), row)).corpus() for row in drawn]
    (found,) = resample(["a"], [sums], REFERENCE_SUMS, config(confidence=0.8)).metrics
    for name, (low, high) in found.items():
        values = np.array([corpus[name] for corpus in expected], np.float64)
        assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])))
    assert {*found, LENGTH} == sums.corpus().keys()


def test_the_gap_is_resampled_with_both_sides_of_it() -> None:
    sums = system(1)
    bootstrap = Bootstrap(num_images=NUM_IMAGES, num_resamples=30, seed=3)
    drawn = bootstrap.sums(np.eye(NUM_IMAGES))
    tokens, counts = (drawn @ REFERENCE_SUMS).T
    gaps = drawn @ sums.lengths / (drawn @ sums.has_caption) - tokens / counts
    (gap,) = resample(["a"], [sums], REFERENCE_SUMS, config()).length_gaps
    assert gap == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))


def test_systems_are_resampled_together_and_so_compared_image_by_image() -> None:
    first, second = system(1), system(2)
    bootstrap = Bootstrap(num_images=NUM_IMAGES, num_resamples=30, seed=3)
    drawn = bootstrap.sums(np.eye(NUM_IMAGES))
    ones, others = summed(first, drawn), summed(second, drawn)
    found = resample(["a", "b"], [first, second], REFERENCE_SUMS, config())
    assert [item.metric for item in found.comparisons] == [
        *schema.BLEU, schema.ROUGE_L, schema.CIDER_D, LENGTH
    ]  # fmt: skip
    for item in found.comparisons:
        differences = ones[item.metric] - others[item.metric]
        differences = np.where(np.abs(differences) < 5e-5, 0.0, differences)
        expected = tuple(np.quantile(differences, [0.025, 0.975]))
        assert (item.low, item.high) == pytest.approx(expected)
        rarer = min((differences <= 0).sum(), (differences >= 0).sum())
        assert item.p_value == pytest.approx(min(1.0, 2 * (rarer + 1) / 31))


def test_other_systems_do_not_change_a_systems_intervals() -> None:
    first, second = system(1, meteor=True), system(2)
    both = resample(["a", "b"], [first, second], REFERENCE_SUMS, config())
    alone = resample(["a"], [first], REFERENCE_SUMS, config())
    turned = resample(["b", "a"], [second, first], REFERENCE_SUMS, config())
    for name, bounds in alone.metrics[0].items():
        assert both.metrics[0][name] == pytest.approx(bounds)
        assert turned.metrics[1][name] == pytest.approx(bounds)
    for item, opposite in zip(both.comparisons, turned.comparisons, strict=True):
        assert opposite.difference == -item.difference
        assert (opposite.low, opposite.high) == pytest.approx((-item.high, -item.low))


def test_the_seed_fixes_the_resamples() -> None:
    def intervals(seed: int) -> dict[str, Any]:
        return resample(["a"], [system(1)], REFERENCE_SUMS, config(seed=seed)).metrics[0]

    assert intervals(3) == intervals(3)
    assert intervals(3) != intervals(4)


def test_only_scores_that_both_systems_have_are_compared() -> None:
    found = resample(["a", "b"], [system(1, meteor=True), system(2)], REFERENCE_SUMS, config())
    assert schema.METEOR in found.metrics[0]
    assert schema.METEOR not in {item.metric for item in found.comparisons}


def test_resamples_without_any_score_are_left_out() -> None:
    only = np.full(NUM_IMAGES, np.nan)
    only[0] = 0.5  # in about two resamples of three
    sums = SystemSums.of([chunk(1, slice(None))], {schema.CLIP_SCORE: only})
    (found,) = resample(["a"], [sums], REFERENCE_SUMS, config()).metrics
    assert found[schema.CLIP_SCORE] == (0.5, 0.5)


def test_without_resamples_there_is_nothing() -> None:
    found = resample(["a"], [system(1)], REFERENCE_SUMS, config(num_resamples=0))
    assert (found.metrics, found.length_gaps, found.comparisons) == ([{}], [None], [])
