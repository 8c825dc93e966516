"""Evaluations in one process: values against references, and systems side by side."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raycap import schema
from raycap.config import MissingPolicy
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.scores import mean
from raycap.metrics.tokenizer import TOKENIZER, tokenize
from raycap.results.evaluation import read_evaluation
from raycap.storage.local import LocalStore
from tests.support import metric_references
from tests.support.evaluation_samples import (
    N_GRAM_METRICS,
    run,
    scores_of,
    sentences,
    values_of,
    write_captions,
    write_corpus,
    write_references,
)
from tests.support.metric_references import Texts, Tokenized, score_all


def write_texts(folder: Path, texts: Texts) -> tuple[str, str]:
    return (
        write_captions(folder / "captions.jsonl", texts.hypotheses),
        write_references(folder / "references.jsonl", texts.references),
    )


# Values


def test_scores_equal_those_of_the_metrics_and_of_pycocoevalcap_on_the_same_tokens(
    tmp_path: Path,
) -> None:
    texts = metric_references.coco_texts(200)
    captions, references = write_texts(tmp_path, texts)
    found = run([captions], references, output=tmp_path / "out")
    corpus = Tokenized(
        [tokenize(text) for text in texts.hypotheses],
        [[tokenize(text) for text in image] for image in texts.references],
    )
    assert found.tokenizer == TOKENIZER
    values = values_of(found)
    assert list(values) == N_GRAM_METRICS
    scores = score_all(corpus)
    assert [*values.values()] == [
        *corpus_bleu(scores.bleu_counts.sum(axis=0)),
        mean(scores.rouge_l),
        mean(scores.cider_d),
    ]
    bleu = metric_references.pycoco_bleu(corpus)
    rouge_l = metric_references.pycoco_rouge_l(corpus)
    cider_d = metric_references.pycoco_cider_d(corpus)
    expected = [*bleu[0], rouge_l[0], cider_d[0]]
    assert [*values.values()] == pytest.approx(expected, rel=0, abs=1e-9)
    table = scores_of(tmp_path / "out")
    for name, of_each in zip(N_GRAM_METRICS, [*bleu[1], rouge_l[1], cider_d[1]], strict=True):
        np.testing.assert_allclose(table[name].to_numpy(), of_each, rtol=0, atol=1e-9)


def test_with_the_published_tokenizer_and_meteor_scores_equal_the_published_ones(
    tmp_path: Path,
) -> None:
    captions, references = write_texts(tmp_path, metric_references.coco_texts())
    found = run(
        [captions],
        references,
        settings={"tokenizer": "ptb", "external": {}, "bootstrap": {"num_resamples": 20}},
    )
    published = metric_references.OF_COCO
    names = (*N_GRAM_METRICS, schema.METEOR)
    expected = (*published.bleu, published.rouge_l, published.cider_d, published.meteor)
    values = values_of(found)
    assert [values[name] for name in names] == pytest.approx(expected, rel=0, abs=1e-9)
    assert (found.tokenizer, found.num_references) == ("stanford-ptb-3.4.1", 4001)
    assert found.systems[0].lengths.mean == 10391 / 1000
    (meteor,) = (metric for metric in found.systems[0].metrics if metric.name == schema.METEOR)
    assert meteor.low is not None
    assert meteor.high is not None
    assert meteor.low < published.meteor < meteor.high


def test_lengths_gap_diversity_and_logprob_are_those_of_the_captions(tmp_path: Path) -> None:
    said = ["a cat sits on a chair", "a dog", "a dog runs runs", None]
    written = [["a cat", "the old cat sits"], ["a dog ."], ["dogs"], ["it"]]
    captions = write_captions(tmp_path / "a.jsonl", said, logprob=[-1.0, -2.0, None, -9.0])
    references = write_references(tmp_path / "refs.jsonl", written)
    found = run([captions], references, missing=MissingPolicy.WORST)
    (system,) = found.systems
    assert (system.num_images, found.num_images, found.num_references) == (4, 4, 5)
    assert system.lengths.histogram == {2: 1, 4: 1, 6: 1}
    assert (system.lengths.mean, system.lengths.median) == (4, 4)
    assert found.reference_lengths.histogram == {1: 2, 2: 2, 4: 1}
    assert found.reference_lengths.mean == 2
    assert system.length_gap.difference == 2
    assert system.length_gap.wasserstein == pytest.approx(2)
    assert system.mean_logprob == -1.5
    assert (system.diversity.vocabulary_size, system.diversity.num_different_captions) == (7, 3)
    assert system.diversity.repetition == pytest.approx(1 / 3)
    assert system.diversity.copied_from_training is None


def test_one_image_has_neither_a_cider_nor_intervals(tmp_path: Path) -> None:
    captions = [
        write_captions(tmp_path / f"{name}.jsonl", [text])
        for name, text in (("a", "a cat on a mat"), ("b", "a dog"))
    ]
    references = write_references(tmp_path / "refs.jsonl", [["a cat on a mat"]])
    found = run(captions, references, output=tmp_path / "out")
    assert values_of(found)[schema.BLEU[3]] == pytest.approx(1)
    (cider,) = (it for it in found.systems[0].metrics if it.name == schema.CIDER_D)
    assert cider.value is None
    assert "one image" in str(cider.skipped)
    assert scores_of(tmp_path / "out")[schema.CIDER_D].to_pylist() == [None]
    assert all(it.low is None for system in found.systems for it in system.metrics)
    assert (found.num_resamples, found.comparisons, len(found.warnings)) == (0, [], 1)
    assert read_evaluation(LocalStore(tmp_path / "out")).warnings == found.warnings


def test_images_with_equal_references_have_no_cider(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["a cat", "a dog", "a cat"])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"]] * 3)
    found = run([captions], references)
    (cider,) = (it for it in found.systems[0].metrics if it.name == schema.CIDER_D)
    assert cider.value is None
    assert found.warnings == []


def test_scores_that_differ_by_less_than_any_table_shows_do_not_differ(tmp_path: Path) -> None:
    # No 4-gram matches: BLEU-4 is only what keeps its logarithm finite, by lengths.
    texts = {"short": "a red cat", "long": "a red cat under that blue tree there"}
    captions = [
        write_captions(tmp_path / f"{name}.jsonl", [text] * 12) for name, text in texts.items()
    ]
    references = write_references(tmp_path / "refs.jsonl", [[f"a red dog {n}"] for n in range(12)])
    found = run(captions, references)
    bleu = [values_of(found, number)[schema.BLEU[3]] for number in range(2)]
    assert 0 < abs(bleu[0] - bleu[1]) < 5e-5
    (test,) = (it for it in found.comparisons if it.metric == schema.BLEU[3])
    assert [test.difference, test.low, test.high, test.p_value] == [0, 0, 0, 1]
    assert not any(math.copysign(1, value) < 0 for value in (test.difference, test.low, test.high))


@pytest.mark.parametrize("is_split", [False, True])
def test_languages_without_spaces_are_warned_of(tmp_path: Path, is_split: bool) -> None:
    chinese = ["一只棕色的猫坐在木头椅子上", "两个穿红色衣服的男人在街上走路"]
    texts = [" ".join(text) if is_split else text for text in chinese]
    captions = write_captions(tmp_path / "a.jsonl", texts)
    references = write_references(tmp_path / "refs.jsonl", [[text] for text in texts])
    found = run([captions], references)
    assert [len(found.warnings)] == [0 if is_split else 1]
    if not is_split:
        assert found.warnings[0].startswith("2 of 2 references, 2 of 2 a: ")


def test_empty_captions_count_and_score_0(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["", " . ", "a cat"])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"], ["a dog"], ["a cat"]])
    found = run([captions], references, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    assert table[schema.NUM_TOKENS].to_pylist() == [0, 0, 2]
    assert table[schema.STATUS].to_pylist() == ["ok"] * 3
    for name in N_GRAM_METRICS:
        assert table[name].to_pylist()[:2] == [0, 0]
    assert values_of(found)[schema.ROUGE_L] == pytest.approx(1 / 3)
    assert found.systems[0].lengths.histogram == {0: 2, 2: 1}


def test_captions_that_are_all_empty_still_have_scores(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "a.jsonl", ["", ""])
    references = write_references(tmp_path / "refs.jsonl", [["a cat"], ["a dog"]])
    found = run([captions], references)
    assert [*values_of(found).values()] == [0] * 6
    assert found.systems[0].length_gap.difference == -2


BROKEN = "half \ud83d of a pair"
ODD = [
    "a cat\n\nand ||| a dog\r\x85",
    "\0 nul and \u2028 lines",
    "חתול ושני כלבים 🐈🐕 in 東京",
    "<script>alert(1)</script> &amp; {{ x }}",
    BROKEN,
    "x" * 5000,
]


def test_odd_characters_neither_end_an_evaluation_nor_shift_other_captions(tmp_path: Path) -> None:
    said = [*ODD, "a cat"]
    captions = write_captions(tmp_path / "a.jsonl", said)
    references = write_references(tmp_path / "refs.jsonl", [[text, "a dog"] for text in said])
    found = run([captions], references, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    broken = ODD.index(BROKEN)
    expected = [text.replace("\ud83d", "?") for text in said]
    assert table[schema.CAPTION].to_pylist() == expected
    scores = table[schema.ROUGE_L].to_pylist()
    # Each is its own reference; but one that is no text is none.
    assert scores.pop(broken) < 0.5
    assert scores == pytest.approx([1] * 6)
    assert found.references_dropped == {"empty_caption": 1}


# Several systems


def test_systems_side_by_side_have_the_scores_of_each_alone(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 60, num_systems=3)
    together = run(systems, references, output=tmp_path / "out")
    assert [system.name for system in together.systems] == ["system-0", "system-1", "system-2"]
    for number, captions in enumerate(systems):
        alone = run([captions], references, output=tmp_path / "alone").systems[0]
        expected = replace(alone, scores=f"scores/part-{number:03d}.parquet")
        assert together.systems[number] == expected
        assert scores_of(tmp_path / "out", number) == scores_of(tmp_path / "alone")
    pairs = [(item.first, item.second) for item in together.comparisons]
    metrics = [*N_GRAM_METRICS, "length"]
    assert pairs == [
        pair
        for pair in (("system-0", "system-1"), ("system-0", "system-2"), ("system-1", "system-2"))
        for _ in metrics
    ]
    assert [item.metric for item in together.comparisons] == metrics * 3
    first, second = values_of(together, 0), values_of(together, 1)
    for item in together.comparisons[:6]:
        difference = first[item.metric] - second[item.metric]
        assert item.difference == (difference if abs(difference) >= 5e-5 else 0)
        assert item.low <= item.difference <= item.high


def test_a_system_does_not_differ_from_itself(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 20)
    found = run(systems * 2, references)
    assert [system.name for system in found.systems] == ["system-0", "system-0 (2)"]
    assert {(item.difference, item.p_value) for item in found.comparisons} == {(0.0, 1.0)}


def test_a_better_system_differs_from_a_worse_one(tmp_path: Path) -> None:
    written = [[text] for text in sentences(100, seed=0)]
    good = write_captions(tmp_path / "good.jsonl", [f"{texts[0]} too" for texts in written])
    bad = write_captions(tmp_path / "bad.jsonl", sentences(100, seed=5))
    found = run([bad, good], write_references(tmp_path / "refs.jsonl", written))
    for item in found.comparisons[:-1]:
        assert (item.first, item.second) == ("bad", "good")
        assert item.difference < item.high < 0
        assert item.p_value == pytest.approx(2 / 51)


def test_without_resamples_there_are_neither_intervals_nor_tests(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 10, num_systems=2)
    off = {"bootstrap": {"num_resamples": 0}}
    found, other = (run(systems, references, settings=settings) for settings in (off, None))
    assert (found.comparisons, found.num_resamples) == ([], 0)
    for system in found.systems:
        assert system.length_gap.low is system.length_gap.high is None
        assert all(metric.low is metric.high is None for metric in system.metrics)
    assert values_of(found) == values_of(other)
