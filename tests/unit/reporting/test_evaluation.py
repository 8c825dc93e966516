"""The table of scores: the best, the clearly best, intervals, and what was not measured."""

from dataclasses import replace

import pytest

from raycap import schema
from raycap.reporting.evaluation import (
    WHISKER_PX,
    Row,
    paired_tests,
    score_groups,
    skipped_metrics,
)
from raycap.results.evaluation import Comparison, Evaluation, Metric
from raycap.results.labels import LENGTH, METRIC_LABELS
from tests.support.report_samples import evaluation_of, score_row

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def evaluation() -> Evaluation:
    """Three systems: one word, all words, two words of five."""
    texts = {"one": "a", "all": "a cat on a mat", "two": "a cat"}
    rows = [
        [score_row(str(n), None, text, ["a cat on a mat"]) for n in range(4)]
        for text in texts.values()
    ]
    return evaluation_of(list(texts), rows)


def row_of(evaluation: Evaluation, label: str) -> Row:
    return next(
        row for group in score_groups(evaluation) for row in group.rows if row.label == label
    )


def test_the_best_of_each_metric_is_marked(evaluation: Evaluation) -> None:
    cells = row_of(evaluation, "CIDEr-D").cells
    assert [cell.is_best for cell in cells] == [False, True, False]
    assert cells[1].value == "2.400"  # three words of the five, twice `a`, times 3
    assert cells[1].interval == "2.256 to 2.520"


def test_the_best_length_gap_is_the_one_nearest_to_none(evaluation: Evaluation) -> None:
    row = row_of(evaluation, "Length gap")
    assert [cell.value for cell in row.cells] == [f"{MINUS}4.00", "0.00", f"{MINUS}3.00"]
    assert [cell.is_best for cell in row.cells] == [False, True, False]
    assert row_of(evaluation, "Mean tokens").note == "people: 5.00"


def test_one_system_alone_is_not_the_best(evaluation: Evaluation) -> None:
    alone = replace(evaluation, systems=evaluation.systems[:1], comparisons=[])
    for group in score_groups(alone):
        for row in group.rows:
            assert not row.cells[0].is_best
            assert row.whiskers == ()


@pytest.mark.parametrize(("p_value", "is_clear"), [(0.01, True), (0.2, False)])
def test_better_than_every_other_needs_a_test_against_each(
    evaluation: Evaluation, p_value: float, is_clear: bool
) -> None:
    tests = [
        Comparison(
            metric=schema.CIDER_D,
            first=first,
            second=second,
            difference=0.1,
            low=0.0,
            high=0.2,
            p_value=p,
        )
        for first, second, p in (("one", "all", 0.0), ("all", "two", p_value))
    ]
    cells = row_of(replace(evaluation, comparisons=tests), "CIDEr-D").cells
    assert [cell.is_clear for cell in cells] == [False, is_clear, False]
    cells = row_of(replace(evaluation, comparisons=tests[:1]), "CIDEr-D").cells
    assert not any(cell.is_clear for cell in cells)


def test_a_difference_that_is_0_as_shown_is_not_marked(evaluation: Evaluation) -> None:
    systems = [
        replace(system, metrics=[Metric(name=schema.CIDER_D, value=number * 1e-5)])
        for number, system in enumerate(evaluation.systems)
    ]
    tests = [
        Comparison(
            metric=schema.CIDER_D,
            first=first,
            second=second,
            difference=-1e-5,
            low=-1e-5,
            high=-1e-5,
            p_value=0.002,
        )
        for first, second in (("one", "all"), ("one", "two"), ("all", "two"))
    ]
    tied = replace(evaluation, systems=systems, comparisons=tests)
    assert not any(cell.is_best or cell.is_clear for cell in row_of(tied, "CIDEr-D").cells)
    assert [(it.difference, it.is_significant) for it in paired_tests(tied)] == [
        ("0.000", False)
    ] * 3


def test_intervals_are_drawn_on_one_axis(evaluation: Evaluation) -> None:
    whiskers = row_of(evaluation, "CIDEr-D").whiskers
    places = [
        place for drawn in whiskers if drawn for place in (drawn.low, drawn.value, drawn.high)
    ]
    assert len(places) == 9
    assert min(places) == whiskers[0].low >= 0  # type: ignore[union-attr]
    assert max(places) == whiskers[1].high <= WHISKER_PX  # type: ignore[union-attr]


def test_without_resamples_there_are_no_intervals(evaluation: Evaluation) -> None:
    bare = [
        replace(
            system,
            metrics=[replace(metric, low=None, high=None) for metric in system.metrics],
            length_gap=replace(system.length_gap, low=None, high=None),
        )
        for system in evaluation.systems
    ]
    for group in score_groups(replace(evaluation, systems=bare, num_resamples=0)):
        for row in group.rows:
            assert row.whiskers == ()
            assert all(cell.interval == "" for cell in row.cells)


def test_what_no_system_has_is_told_with_its_reason_and_is_no_row(evaluation: Evaluation) -> None:
    assert skipped_metrics(evaluation) == [
        ("METEOR", "needs a Java program: pip install 'raycap[java]'")
    ]
    labels = [row.label for group in score_groups(evaluation) for row in group.rows]
    assert "METEOR" not in labels
    assert "Copied" not in labels


def test_what_one_system_lacks_is_an_empty_cell_and_told(evaluation: Evaluation) -> None:
    first, *others = evaluation.systems
    metrics = [metric for metric in first.metrics if metric.name != schema.ROUGE_L]
    lame = replace(first, metrics=[*metrics, Metric(name=schema.ROUGE_L, value=None)])
    mixed = replace(evaluation, systems=[lame, *others])
    row = row_of(mixed, "ROUGE-L")
    assert row.cells[0].value == "\N{EN DASH}"
    assert row.whiskers[0] is None
    assert row.cells[1].is_best
    assert ("ROUGE-L of one", "no reason given") in skipped_metrics(mixed)


def test_paired_tests_are_shown_as_they_are(evaluation: Evaluation) -> None:
    shown = paired_tests(evaluation)[0]
    assert (shown.metric, shown.first, shown.second) == ("BLEU-4", "one", "all")
    assert (shown.difference, shown.interval) == (f"{MINUS}0.200", f"{MINUS}0.300 to {MINUS}0.100")
    assert (shown.p_value, shown.is_significant) == ("<0.002", True)
    lengths = [test for test in paired_tests(evaluation) if test.metric == METRIC_LABELS[LENGTH]]
    assert len(lengths) == 2
    assert LENGTH in {test.metric for test in evaluation.comparisons}


def test_metrics_that_are_not_known_here_keep_their_name(evaluation: Evaluation) -> None:
    systems = [
        replace(system, metrics=[Metric(name="brand_new", value=0.5)])
        for system in evaluation.systems
    ]
    assert row_of(replace(evaluation, systems=systems), "brand_new").cells[0].value == "0.500"
