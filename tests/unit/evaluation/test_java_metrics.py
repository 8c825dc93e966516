"""METEOR and the ptb tokenizer: published values, and captions that try their protocols."""

import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from raycap.evaluation import java
from raycap.evaluation.java import JavaError, PtbTokenizer
from raycap.evaluation.meteor import Meteor, corpus_meteor
from tests.support import metric_references as references
from tests.support.metric_references import (
    TWO_SENTENCES,
    Tokenized,
    Tokens,
    coco_captions,
    ptb_tokens,
)
from tests.support.token_corpora import take


@pytest.fixture(scope="module")
def ptb() -> Iterator[PtbTokenizer]:
    with PtbTokenizer() as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def meteor() -> Iterator[Meteor]:
    with Meteor() as started:
        yield started


@pytest.fixture(scope="module")
def coco(ptb: PtbTokenizer) -> Tokenized:
    return ptb_tokens(ptb, references.coco_texts())


def corpus_score(meteor: Meteor, corpus: Tokenized) -> float:
    return float(corpus_meteor(meteor.statistics(*corpus).sum(axis=0)))


# METEOR


@pytest.mark.slow
def test_meteor_of_two_sentences_equals_the_published_program(meteor: Meteor) -> None:
    of_each = meteor.score(*TWO_SENTENCES)
    np.testing.assert_allclose(of_each, references.METEOR_OF_EACH, rtol=0, atol=5e-9)
    expected = references.OF_TWO_SENTENCES.meteor
    assert corpus_score(meteor, TWO_SENTENCES) == pytest.approx(expected, abs=5e-7)


def test_meteor_leaving_one_of_cocos_captions_out_equals_coco_caption(
    meteor: Meteor, coco: Tokenized
) -> None:
    expected = references.OF_COCO.meteor
    assert corpus_score(meteor, coco) == pytest.approx(expected, abs=1e-12)


def test_meteor_of_coco_captions_own_example_equals_what_it_prints(
    meteor: Meteor, ptb: PtbTokenizer, real_photos: Path
) -> None:
    corpus = ptb_tokens(ptb, references.golden_texts(real_photos))
    expected = references.OF_GOLDEN.meteor
    assert corpus_score(meteor, corpus) == pytest.approx(expected, abs=1e-12)


def test_meteor_computed_here_equals_the_programs_own_computation(
    meteor: Meteor, coco: Tokenized
) -> None:
    hypotheses = coco.hypotheses[:300]
    others = [list(image) for image in coco.references[:300]]
    others[7].append(hypotheses[7])  # equal to a reference: the program's special case
    others[8] = [["no", "such", "word"]]
    statistics = meteor.statistics(hypotheses, others)
    rows = [" ".join(map(str, row)) for row in statistics.tolist()]
    expected = meteor._process.exchange("EVAL ||| " + " ||| ".join(rows) + "\n", len(rows) + 1)
    np.testing.assert_allclose(
        corpus_meteor(statistics), [float(line) for line in expected[:-1]], atol=1e-12
    )
    assert corpus_meteor(statistics.sum(axis=0)) == pytest.approx(float(expected[-1]), abs=1e-12)
    assert (corpus_meteor(statistics)[7], corpus_meteor(statistics)[8]) == (1.0, 0.0)


def test_meteors_statistics_of_an_image_do_not_depend_on_the_images_beside_it(
    meteor: Meteor, coco: Tokenized
) -> None:
    whole = meteor.statistics(*take(coco, range(60)))
    for part in (range(30, 60), [17], range(59, -1, -1)):
        np.testing.assert_array_equal(meteor.statistics(*take(coco, part)), whole[list(part)])


def test_meteor_of_resamples_is_computed_at_once(meteor: Meteor) -> None:
    statistics = meteor.statistics(*TWO_SENTENCES)
    counts = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    found = corpus_meteor(counts @ statistics)
    alone = corpus_meteor(statistics)
    assert (found[0], found[2]) == (alone[0], alone[1])
    assert found[1] == corpus_meteor(statistics.sum(axis=0))


def test_meteors_protocol_survives_any_token(meteor: Meteor) -> None:
    hypotheses: list[Tokens] = [
        [],
        ["a"],
        [],
        ["a", "|||", "dog"],
        ["a\ndog"],
        ["a\r", "dog"],
        ["\ud800"],
    ]
    others: list[list[Tokens]] = [
        [["a"]],
        [[]],
        [[]],
        [["|||||"], ["a", "dog"]],
        [["a", "dog"]],
        [["a", "||||dog"]],
        [["x"]],
    ]
    assert meteor.score(hypotheses, others).tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_meteor_of_no_images_has_no_rows(meteor: Meteor) -> None:
    assert meteor.statistics([], []).shape == (0, 23)
    assert corpus_meteor(np.zeros(23)) == 0


def test_an_image_without_references_is_refused_by_meteor(meteor: Meteor) -> None:
    with pytest.raises(JavaError, match="specify hypothesis and at least one reference"):
        meteor.score([["a"]], [[]])


# The ptb tokenizer


def test_ptb_tokens_are_lower_case_without_punctuation(ptb: PtbTokenizer) -> None:
    captions = ['A man, riding a "Horse" (brown).', "It's 12:45 -- isn't it?", "1 1/2 cups!"]
    assert ptb.tokenize(captions) == [
        ["a", "man", "riding", "a", "horse", "-lrb-", "brown", "-rrb-"],
        ["it", "'s", "12:45", "is", "n't", "it"],
        ["1", "1/2", "cups"],
    ]


def test_ptb_tokens_equal_a_plain_run_of_the_program(ptb: PtbTokenizer) -> None:
    captions = list(chain.from_iterable(coco_captions()[:1000]))
    jar = java.find_file("tokenizer/stanford-corenlp-3.4.1.jar")
    main = "edu.stanford.nlp.process.PTBTokenizer"
    plain = subprocess.run(
        [java.find_javas()[0], "-cp", str(jar), main, "-preserveLines", "-lowerCase"],
        input="".join(caption.replace("\n", " ") + "\n" for caption in captions).encode(),
        capture_output=True,
        check=True,
    )
    dropped = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
    expected = [
        [token for token in line.split(" ") if token and token not in dropped.split()]
        for line in plain.stdout.decode().split("\n")
    ]
    assert ptb.tokenize(captions) == expected[:-1]


@pytest.mark.parametrize(
    "caption",
    ["", " ", "\n", "\r\n\r\n", "a\u2028b\u2029c\vd\fe", "\x00\x1f\x85", "\ud800", "\ufeff"],
)
def test_no_caption_shifts_the_lines_of_others(ptb: PtbTokenizer, caption: str) -> None:
    before, _, after = ptb.tokenize(["before it", caption, "after it"])
    assert (before, after) == (["before", "it"], ["after", "it"])


def test_line_breaks_within_a_caption_part_words(ptb: PtbTokenizer) -> None:
    assert ptb.tokenize(["a\nb\rc\u2028d"]) == [["a", "b", "c", "d"]]


def test_a_captions_tokens_do_not_depend_on_the_next_caption(ptb: PtbTokenizer) -> None:
    captions = ["Lane St. and 12th Ave S.", "a sign that reads K.", "in the U.S.", "a Wii U."]
    alone = [ptb.tokenize([caption])[0] for caption in captions]
    for other in ("A dog", "the dog", "Mr. X", "12", ""):
        together = ptb.tokenize([text for caption in captions for text in (caption, other)])
        assert together[::2] == alone


def test_more_captions_than_one_exchange_come_back_in_order(ptb: PtbTokenizer) -> None:
    captions = [f"dog {number}" for number in range(25_000)]
    assert ptb.tokenize(captions) == [caption.split() for caption in captions]
    assert ptb.tokenize([]) == []
    assert ptb.tokenize(["x" * 200_000, "last"]) == [["x" * 200_000], ["last"]]
