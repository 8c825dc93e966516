import pytest

from raycap.answers.language import check_language, is_in_another_language
from raycap.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "language", "is_other"),
    [
        ("Ein Hund liegt auf einem Sofa.", "en", True),
        ("Ein Hund liegt auf einem Sofa.", "de", False),
        ("A dog is lying on a couch.", "de", True),
        ("一只狗睡在沙发上。", "en", True),
        ("犬がソファで寝ている。", "zh", True),
        ("OK", "de", False),
        ("123 456", "de", False),
        ('Auf dem Schild steht "This road is closed to all traffic".', "de", False),
        ('{"caption": "Ein Hund"}', "en", False),
    ],
)
def test_another_language_is_found(text: str, language: str, is_other: bool) -> None:
    assert is_in_another_language(text, language) == is_other


def test_a_language_that_is_not_known_is_refused() -> None:
    check_language(None)
    check_language("en")
    with pytest.raises(ConfigError) as caught:
        check_language("xx")
    assert caught.value.setting == "answers.language"
