"""ROUGE-L: pycocoevalcap's scores, and the longest common subsequence by its definition."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from raycap.metrics.rouge import score_rouge_l
from tests.support.metric_references import Tokens
from tests.support.token_corpora import captions

BETA_SQUARED = 1.44


def is_subsequence(short: tuple[str, ...], long: Tokens) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


def common_by_definition(first: Tokens, second: Tokens) -> int:
    """Try every subsequence of the first, the longest first."""
    for length in range(len(first), 0, -1):
        if any(is_subsequence(some, second) for some in combinations(first, length)):
            return length
    return 0


def score_of(num_common: int, hypothesis: int, reference: int) -> float:
    if not num_common:
        return 0.0
    precision, recall = num_common / hypothesis, num_common / reference
    return (1 + BETA_SQUARED) * precision * recall / (recall + BETA_SQUARED * precision)


@settings(deadline=None)
@given(captions(), captions())
def test_the_longest_common_subsequence_is_that_of_its_definition(
    hypothesis: Tokens, reference: Tokens
) -> None:
    num_common = common_by_definition(hypothesis, reference)
    expected = score_of(num_common, len(hypothesis), len(reference))
    assert score_rouge_l(hypothesis, [reference]) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(captions(1), st.lists(captions(1), min_size=1, max_size=5))
def test_rouge_l_equals_pycocoevalcaps(hypothesis: Tokens, references: list[Tokens]) -> None:
    texts = [" ".join(tokens) for tokens in references]
    expected = Rouge().calc_score([" ".join(hypothesis)], texts)
    assert score_rouge_l(hypothesis, references) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(captions(70, 150), captions(70, 150))
def test_captions_longer_than_a_machine_word_are_no_exception(
    hypothesis: Tokens, reference: Tokens
) -> None:
    expected = score_of(my_lcs(reference, hypothesis), len(hypothesis), len(reference))
    assert score_rouge_l(hypothesis, [reference]) == pytest.approx(expected, abs=1e-12)


def test_precision_and_recall_may_be_those_of_two_references() -> None:
    hypothesis = ["a", "b", "c", "d"]
    references = [["a", "b", "c", "x", "y", "z"], ["d"]]  # 3 of 4 of the caption; 1 of 1 of it
    expected = (1 + BETA_SQUARED) * 0.75 / (1 + BETA_SQUARED * 0.75)
    assert score_rouge_l(hypothesis, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("hypothesis", "references", "expected"),
    [
        ([], [["a"]], 0),
        ([], [[]], 0),
        (["a"], [[]], 0),
        (["a"], [["b"], []], 0),
        (["a"], [[], ["a"]], 1),
        (["a", "dog"], [["a", "dog"]], 1),
    ],
)
def test_empty_captions_and_references_score_0(
    hypothesis: Tokens, references: list[Tokens], expected: float
) -> None:
    assert score_rouge_l(hypothesis, references) == pytest.approx(expected)
