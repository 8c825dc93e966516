"""The rules for the text of answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.answers.wording import Wording, check_rules
from raycap.config import CaptionConfig, TextConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ErrorCode, ImageError
from raycap.text import count_words, sentence_ends

EXPONENTIAL = {"find": r"(\w+\s?)+$", "with": "", "regex": True}


def _worded(answer: str, **rules: Any) -> str:
    return Wording(TextConfig.model_validate(rules))(answer)


@given(st.text())
def test_without_rules_an_answer_is_the_caption(answer: str) -> None:
    assert _worded(answer) == answer
    assert TextConfig().rules() == {}


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("The image shows a dog.", "A dog."),
        ("this is a photo of a cat on a mat", "a cat on a mat"),
        ("Sure! Here is a caption: The image depicts two men.", "Two men."),
        ("In this image, we can see an old man.", "An old man."),
        ("Here's a detailed description of the image:\n\nThe photo features a bus.", "A bus."),
        ("The picture is a digital illustration of étoiles.", "Étoiles."),
        ("**Caption:** A dog", "A dog"),
        ("An image shows ǆ", "ǅ"),  # a letter whose capital at the start of a word is its own
        ("The image shows how a car works.", "The image shows how a car works."),
        ("A black and white photo of a dog", "A black and white photo of a dog"),
        ("Images of dogs hang on a wall", "Images of dogs hang on a wall"),
        ("Photo of the day is pinned", "Photo of the day is pinned"),
        ("Sure enough, the dog runs", "Sure enough, the dog runs"),
        ("The image showsx", "The image showsx"),
        ("The image shows", "The image shows"),
    ],
)
def test_phrases_that_say_nothing_are_removed_from_the_start(answer: str, caption: str) -> None:
    assert _worded(answer, strip_openers=True) == caption


def test_own_phrases_are_literal_and_ignore_case_and_kind_of_space() -> None:
    rules = {"openers": ["Auf dem Bild sieht man", "(x)"]}
    assert _worded("Auf dem bild\nsieht man: einen Hund", **rules) == "Einen Hund"
    assert _worded("(x) a dog", **rules) == "a dog"
    assert _worded("x a dog", **rules) == "x a dog"
    assert _worded("The image shows a dog", **rules) == "The image shows a dog"


def test_replacements_follow_each_other() -> None:
    rules = [
        {"find": "colour", "with": "color"},
        {"find": r"\b(\w+) \1\b", "with": r"\1", "regex": True},
        {"find": "color.", "with": "hue"},
    ]
    assert _worded("the the colour.", replace=rules) == "the hue"
    assert _worded("a.b", replace=[{"find": ".", "with": ""}]) == "ab"


@pytest.mark.parametrize(
    ("max_words", "caption"),
    [
        (3, "A dog runs."),
        (6, "A dog runs."),
        (7, "A dog runs. It's 3.5 m."),  # a number with a point has two words
        (2, "A dog"),
        (100, "A dog runs. It's 3.5 m. Dr. No, too, sleeps."),
    ],
)
def test_an_answer_is_cut_at_a_sentence(max_words: int, caption: str) -> None:
    answer = "A dog runs. It's 3.5 m. Dr. No, too, sleeps."
    assert _worded(answer, max_words=max_words) == caption


@given(st.text(), st.integers(1, 5))
def test_no_caption_has_more_words_than_allowed(answer: str, max_words: int) -> None:
    cut = _worded(answer, max_words=max_words)
    assert count_words(cut) <= max_words
    assert answer.startswith(cut)


def test_white_space_is_collapsed_before_and_after_replacements() -> None:
    rules = {"whitespace": "collapse", "replace": [{"find": "b c", "with": ""}]}
    assert _worded("  a\n\tb \u3000c d ", **rules) == "a d"


@pytest.mark.parametrize(
    ("case", "caption"),
    [
        ("lower", "ein großer hund. “er” rennt!"),
        ("upper", "EIN GROSSER HUND. “ER” RENNT!"),
        ("sentence", "Ein großer hund. “Er” rennt!"),
    ],
)
def test_case_of_any_alphabet(case: str, caption: str) -> None:
    assert _worded("ein großer HUND. “ER” rennt!", case=case) == caption


def test_prefix_and_suffix_are_not_changed_nor_counted() -> None:
    rules = {"prefix": "PHOTO: ", "suffix": " (by me)", "case": "lower", "max_words": 2}
    assert _worded("A Dog Runs", **rules) == "PHOTO: a dog (by me)"


def test_an_empty_answer_stays_empty() -> None:
    assert _worded(" ", prefix="x", suffix="y") == " "


def test_an_answer_of_which_nothing_is_left_has_a_code() -> None:
    with pytest.raises(ImageError) as caught:
        _worded("a dog", prefix="x", replace=[{"find": ".+", "with": "", "regex": True}])
    assert caught.value.code is ErrorCode.TEXT_FAILED


def test_an_expression_that_takes_too_long_is_refused_before_the_run() -> None:
    config = TextConfig.model_validate({"replace": [{"find": "a", "with": "b"}, EXPONENTIAL]})
    with pytest.raises(ConfigError) as caught:
        check_rules(config)
    assert caught.value.setting == "text.replace.1"


def test_an_expression_that_takes_too_long_for_an_answer_has_a_code() -> None:
    with pytest.raises(ImageError) as caught:
        _worded("a" * 1000 + "!", replace=[EXPONENTIAL])
    assert caught.value.code is ErrorCode.TEXT_FAILED


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ({"find": "("}, "text.replace.0"),
        ({"find": "a)(b"}, "text.replace.0"),
        ({"find": "a", "with": r"\1"}, "text.replace.0"),
        ({"find": "a", "with": r"\g<name>"}, "text.replace.0"),
        ({"find": ""}, "text.replace.0.find"),
        ({"find": "a", "by": "b"}, "text.replace.0.by"),
    ],
)
def test_a_wrong_rule_names_its_setting(rule: dict[str, str], setting: str) -> None:
    values = {"text": {"replace": [{"regex": True, **rule}]}}
    with pytest.raises(ConfigError) as caught:
        validate_config(CaptionConfig, values)
    assert caught.value.setting == setting


def test_rules_name_what_was_set() -> None:
    values = {"replace": [{"find": "a", "with": "b"}], "max_words": 3}
    config = TextConfig.model_validate(values)
    assert config.rules() == values
    assert TextConfig.model_validate(config.rules()) == config


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "Dr. Who is at 3.5 m. It's 5 p.m. now. Yes!",
            ["Dr. Who is at 3.5 m.", "It's 5 p.m. now.", "Yes!"],
        ),
        ('He left... then "came." No. 5 is here', ['He left... then "came."', "No. 5 is here"]),
        ("这是一只狗。它在跑。", ["这是一只狗。", "它在跑。"]),
        ("one\n\n- two", ["one", "- two"]),
        ("J. R. Tolkien", ["J. R. Tolkien"]),
        (" ", []),
    ],
)
def test_ends_of_sentences(text: str, sentences: list[str]) -> None:
    ends = sentence_ends(text)
    assert [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)] == sentences
