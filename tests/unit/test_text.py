"""Counting words, scripts, and durations as text."""

import pytest

from raycap.text import count_words, duration, script_of


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        ("", 0),
        ("  .,!? -- ' ", 0),
        ("a dog runs", 3),
        ("A dog, a cat; and (two) birds.", 7),
        ("the man's well-known t-shirt", 4),
        ("the man’s hat", 3),  # noqa: RUF001  a typographic apostrophe is meant
        ("2 x 3.5 m", 5),
        ("été à la plage\nun chien", 6),
        ("dogs' tails", 2),
    ],
)
def test_a_word_is_a_run_of_letters_and_digits(caption: str, number: int) -> None:
    assert count_words(caption) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.0, "0.0 s"), (119.0, "119.0 s"), (420.0, "7.0 min"), (5400.0, "1.5 h")],
)
def test_a_duration_has_the_unit_that_fits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a cat", "Latin"),
        ("eine Größe", "Latin"),
        ("\u043a\u043e\u0442 on", "Cyrillic"),
        ("\u732b", "Han"),
        ("\u3042\u732bT", "Han"),
        ("12 %", None),
        ("\U0001f408", None),
        ("", None),
    ],
)
def test_a_text_has_the_script_of_most_letters(text: str, script: str | None) -> None:
    assert script_of(text) == script
