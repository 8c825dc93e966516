"""Our own tokenizer: what it does, what it never does, and how far it is from Stanford's."""

from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.evaluation.java import PUNCTUATION, PtbTokenizer
from raycap.metrics.tokenizer import is_unsplit, tokenize
from tests.support.metric_references import coco_captions

TRYING = {
    "A man's dog isn't here, it's 12:45.": "a man 's dog is n't here it 's 12:45",
    'A "Horse" (brown) [old] {x}': "a horse -lrb- brown -rrb- -lsb- old -rsb- -lcb- x -rcb-",
    "5th St. and Ave. A": "5th st. and ave. a",
    "Mr. Smith's U.S. flag, 5 p.m.": "mr. smith 's u.s. flag 5 p.m.",
    "He can't, won't and cannot; gonna go": "he ca n't wo n't and can not gon na go",
    "1 1/2 cups & 50% off, $5.00 #1": "1 1/2 cups & 50 % off $ 5.00 # 1",
    "me@x.org or http://a.b/c?d=e.": "me@x.org or http://a.b/c?d=e",
    "a ½ cup… “quoted” – dash": "a 1/2 cup quoted dash",  # noqa: RUF001  the dash is meant
    "café naïve 犬 дом": "café naïve 犬 дом",
    "dogs' toys, the '90s, rock 'n' roll": "dogs toys the '90s rock 'n' roll",
    "A dog.A cat.": "a dog.a cat",
    "o'clock d'oeuvres y'all c'mon": "o'clock d'oeuvres y' all c'mon",
    "black/white two-and-a-half 3.5-inch": "black/white two-and-a-half 3.5-inch",
    "<unk> dog!!! what?? :)": "<unk> dog !!! what ?? :-rrb-",
    "AT&T &amp; co, 7-Eleven No. 5": "at&t & co 7-eleven no. 5",
    "the letter K.": "the letter k",
    "10,000 -5 +3": "10,000 -5 +3",
    "an emoji \U0001f415 of a dog": "an emoji of a dog",
    "": "",
    " . ! -- ... '' \n": "",
}


@pytest.fixture(scope="module")
def ptb() -> Iterator[PtbTokenizer]:
    with PtbTokenizer() as tokenizer:
        yield tokenizer


@pytest.mark.parametrize(("caption", "expected"), TRYING.items())
def test_captions_that_try_it_are_split_as_expected(caption: str, expected: str) -> None:
    assert tokenize(caption) == expected.split()


def test_stanfords_program_splits_them_alike(ptb: PtbTokenizer) -> None:
    assert ptb.tokenize(list(TRYING)) == [expected.split() for expected in TRYING.values()]


@pytest.mark.parametrize("num_images", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_caption_of_coco_is_split_as_by_stanfords_program(
    ptb: PtbTokenizer, num_images: int
) -> None:
    captions = list(chain.from_iterable(coco_captions()[:num_images]))
    expected = ptb.tokenize(captions)
    differ = [
        caption
        for caption, tokens in zip(captions, expected, strict=True)
        if tokenize(caption) != tokens
    ]
    assert differ == []


@settings(deadline=None, max_examples=400)
@given(st.text(max_size=60) | st.text("aA1 .,'-_/&@#()<>:;!?\"\xa0é", max_size=60))
def test_any_text_becomes_lower_case_tokens_without_spaces(text: str) -> None:
    for token in tokenize(text):
        assert token.split() == [token]
        assert token == token.lower()
        assert token not in PUNCTUATION


@settings(deadline=None)
@given(st.lists(st.sampled_from(["A", "dog", "runs", "quickly", "Café"]), max_size=12))
def test_plain_words_are_tokens_with_any_spaces(words: list[str]) -> None:
    expected = [word.lower() for word in words]
    assert tokenize(" ".join(words)) == expected
    assert tokenize("\n\t" + "  \xa0".join(words) + " .") == expected


@pytest.mark.parametrize(
    "unit",
    ["a", " ", ".", "'", "+", "a+", "a.", "a-", "a/", "a@", "<a", "1.1-a", "a'a", "&amp", "é-"],
)
def test_a_caption_of_200_000_characters_is_split_in_reasonable_time(unit: str) -> None:
    # Were a run read again from each of its characters, these would take minutes together.
    tokens = tokenize(unit * (200_000 // len(unit)) + " a dog")
    assert tokens[-2:] == ["a", "dog"]


@pytest.mark.parametrize(
    ("caption", "is_phrase"),
    [
        ("a cat on a mat", False),
        ("un château près de l'église", False),
        ("кошка сидит на стуле", False),
        ("고양이가 의자에 앉아 있다", False),
        ("一只 猫 坐 在 椅子 上", False),
        ("一只棕色的猫坐在椅子上", True),
        ("木製の椅子に座っている茶色い猫", True),
        ("แมวสีน้ำตาลนั่งอยู่บนเก้าอี้ไม้", True),
        ("แมว สีน้ำตาล นั่ง บน เก้าอี้", False),
    ],
)
def test_phrases_without_spaces_are_recognised(caption: str, is_phrase: bool) -> None:
    assert is_unsplit(caption) is is_phrase
