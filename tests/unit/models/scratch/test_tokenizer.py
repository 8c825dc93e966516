"""Tokens that are learned from captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from raycap.errors import ModelError
from raycap.models.scratch.tokenizer import (
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    UNKNOWN,
    CaptionTokenizer,
)

CAPTIONS = [
    "A red cat, sitting on the mat.",
    "Two dogs (brown) run; it's fun!",
    "a café in Zürich",
    'he said "hi" to the red cat',
]


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(CAPTIONS * 3, 300)


@pytest.mark.parametrize("caption", [*CAPTIONS, "the cat's mat", "a  red\tcat\n", "", " "])
def test_a_caption_comes_back_lower_cased_with_single_spaces(
    tokenizer: CaptionTokenizer, caption: str
) -> None:
    (tokens,) = tokenizer.encode([caption])
    assert not {PAD, UNKNOWN, START, END} & set(tokens)
    assert max(tokens, default=0) < tokenizer.size
    assert tokenizer.decode(tokens) == " ".join(caption.lower().split())


def test_common_words_and_punctuation_are_tokens(tokenizer: CaptionTokenizer) -> None:
    (tokens,) = tokenizer.encode(["the red cat, sitting."])
    assert [tokenizer.decode([token]) for token in tokens] == [
        "the", "red", "cat", ",", "sitting", ".",
    ]  # fmt: skip
    assert [tokenizer.starts_word(token) for token in tokens] == [
        True, True, True, False, True, False,
    ]  # fmt: skip


def test_unicode_spellings_of_a_word_are_one(tokenizer: CaptionTokenizer) -> None:
    assert tokenizer.encode(["cafe\u0301 ﬁt"]) == tokenizer.encode(["CAFÉ fit"])


def test_an_unknown_character_vanishes(tokenizer: CaptionTokenizer) -> None:
    (tokens,) = tokenizer.encode(["a ☃ cat"])
    assert UNKNOWN in tokens
    assert tokenizer.decode(tokens).split() == ["a", "cat"]


def test_a_caption_that_spells_a_special_token_is_text(tokenizer: CaptionTokenizer) -> None:
    for text in (*SPECIAL_TOKENS, "a cat [END] sits"):
        assert not {PAD, START, END} & set(tokenizer.encode([text])[0])


def test_special_tokens_are_no_text(tokenizer: CaptionTokenizer) -> None:
    (tokens,) = tokenizer.encode(["a red cat"])
    assert tokenizer.decode([START, *tokens, END, PAD, PAD]) == "a red cat"


def test_the_vocabulary_is_no_larger_than_asked(tokenizer: CaptionTokenizer) -> None:
    assert tokenizer.size < 300
    many = ["".join(chr(0x4E00 + 50 * row + place) for place in range(50)) for row in range(8)]
    assert CaptionTokenizer.train(many, 64).size == 64


def test_order_and_repetition_of_the_run_change_no_token(
    tokenizer: CaptionTokenizer, tmp_path: Path
) -> None:
    again = CaptionTokenizer.train(CAPTIONS[::-1] * 3, 300)
    for name, one in (("first", tokenizer), ("second", again)):
        one.save(tmp_path / name)
    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()


def test_it_is_saved_whole_and_transformers_reads_it(
    tokenizer: CaptionTokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer.save(file)
    again = CaptionTokenizer.load(file)
    assert again.size == tokenizer.size
    assert again.encode([*CAPTIONS, "[END]"]) == tokenizer.encode([*CAPTIONS, "[END]"])
    load: Any = PreTrainedTokenizerFast  # untyped there
    theirs = load(tokenizer_file=str(file))
    assert [theirs(caption).input_ids for caption in CAPTIONS] == tokenizer.encode(CAPTIONS)


@pytest.mark.parametrize("content", [None, "", "{}", "no json"])
def test_a_broken_file_is_one_clear_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ModelError) as caught:
        CaptionTokenizer.load(file)
    assert caught.value.uri == str(file)


def test_a_tokenizer_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    CaptionTokenizer.train(CAPTIONS, 300).save(file)
    file.write_text(file.read_text().replace("[START]", "[BEGIN]"))
    with pytest.raises(ModelError, match=r"\[BEGIN\]") as caught:
        CaptionTokenizer.load(file)
    assert caught.value.uri == str(file)


def test_a_fault_of_the_captions_is_passed_on() -> None:
    def broken() -> Iterator[str]:
        yield "a cat"
        raise OSError("the dataset is gone")

    with pytest.raises(OSError, match="the dataset is gone"):
        CaptionTokenizer.train(broken(), 300)
