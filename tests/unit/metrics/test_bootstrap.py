"""The bootstrap: resamples one by one, intervals that cover, tests that keep their level."""

from itertools import product

import numpy as np
import pytest

from raycap.metrics import bootstrap
from raycap.metrics.bleu import corpus_bleu, count_bleu
from raycap.metrics.bootstrap import Bootstrap, interval, p_value
from raycap.metrics.corpus import Corpus


def resamples(num_images: int, num_resamples: int = 400, seed: int = 0) -> Bootstrap:
    return Bootstrap(num_images=num_images, num_resamples=num_resamples, seed=seed)


def means(values: np.ndarray, num_resamples: int = 400, seed: int = 0) -> np.ndarray:
    """Compute the mean of each resample of some values, one an image."""
    drawn = resamples(len(values), num_resamples, seed).sums(values[:, None].astype(np.float64))
    return np.asarray(drawn[:, 0] / len(values))


# Resamples


def test_sums_are_those_of_images_drawn_one_by_one() -> None:
    columns = np.random.default_rng(1).integers(0, 50, (30, 3)).astype(np.float64)
    generator = np.random.Generator(np.random.PCG64(7))
    drawn = [generator.integers(30, size=30) for _ in range(20)]
    expected = np.array([columns[images].sum(axis=0) for images in drawn])
    np.testing.assert_array_equal(resamples(30, 20, seed=7).sums(columns), expected)


def test_how_many_are_drawn_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(1).integers(0, 50, (30, 3)).astype(np.float64)
    expected = resamples(30, 25).sums(columns)
    for num_weights in (1, 70, 30 * 25):
        monkeypatch.setattr(bootstrap, "_CHUNK_WEIGHTS", num_weights)
        np.testing.assert_array_equal(resamples(30, 25).sums(columns), expected)


def test_each_resample_draws_as_many_images_as_there_are() -> None:
    sums = resamples(50, 200).sums(np.ones((50, 1)))
    assert (sums == 50).all()
    counts = resamples(50, 4000).sums(np.eye(50))
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(counts.var(axis=0), 1 - 1 / 50, atol=0.15)


def test_all_resamples_of_three_images_have_their_probabilities() -> None:
    expected = np.bincount([sum(drawn) for drawn in product([0, 1, 4], repeat=3)]) / 27
    values = means(np.array([0, 1, 4]), num_resamples=40_000) * 3
    found = np.bincount(np.rint(values).astype(np.int64), minlength=len(expected)) / 40_000
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    values = np.arange(40)
    np.testing.assert_array_equal(means(values, seed=3), means(values, seed=3))
    assert (means(values, seed=3) != means(values, seed=4)).any()
    assert resamples(40, 0).sums(values[:, None].astype(np.float64)).shape == (0, 1)


def test_bleu_of_a_resample_is_that_of_its_corpus() -> None:
    hypotheses = [["a", "dog"], ["a", "cat", "sits"], ["birds", "in", "a", "tree"]]
    references = [[["a", "dog"]], [["the", "cat", "sits"]], [["a", "bird", "in", "a", "tree"]]]
    counts = count_bleu(Corpus.of(hypotheses, references))
    found = corpus_bleu(resamples(3, 10, seed=5).sums(counts.astype(np.float64)))
    generator = np.random.Generator(np.random.PCG64(5))
    for row in found:
        drawn = generator.integers(3, size=3)
        again = Corpus.of([hypotheses[at] for at in drawn], [references[at] for at in drawn])
        np.testing.assert_array_equal(row, corpus_bleu(count_bleu(again).sum(axis=0)))


# Intervals


def test_an_interval_is_between_quantiles() -> None:
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert interval(np.array([2.0]), 0.95) == (2, 2)


def test_intervals_of_a_mean_are_as_wide_as_theory_has_them() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 500)
    low, high = interval(means(values, num_resamples=4000), 0.95)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_cover_the_truth_about_as_often_as_they_say(confidence: float) -> None:
    generator = np.random.default_rng(3)
    samples = generator.exponential(1.0, (300, 100))
    intervals = [interval(means(values, seed=1), confidence) for values in samples]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    # Of 300 samples, three standard errors; and skewed data take a little.
    assert confidence - 0.09 < covered < confidence + 0.06


# Two systems


def test_a_system_does_not_differ_from_itself() -> None:
    values = np.random.default_rng(4).normal(size=50)
    assert p_value(means(values) - means(values)) == 1


def test_p_is_twice_the_share_of_the_rarer_sign_and_never_0() -> None:
    assert p_value(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert p_value(np.array([-1.0] * 97 + [1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert p_value(np.array([1.0, -1.0])) == 1
    assert p_value(np.array([0.0] * 5 + [1.0] * 14)) == pytest.approx(2 * 6 / 20)


def test_pairing_sees_a_small_difference_on_images_that_differ_much() -> None:
    generator = np.random.default_rng(5)
    worse = generator.normal(0, 10, 200)
    better = worse + generator.normal(0.5, 0.5, 200)
    assert p_value(means(better) - means(worse)) < 0.01
    assert p_value(means(better, seed=1) - means(worse, seed=2)) > 0.2


def test_equal_systems_differ_about_as_rarely_as_the_level_states() -> None:
    generator = np.random.default_rng(6)
    differences = generator.normal(0.0, 1.0, (400, 80))
    found = np.array([p_value(means(values)) for values in differences])
    assert 0.02 < np.mean(found < 0.05) < 0.09
    assert 0.4 < np.mean(found < 0.5) < 0.6
