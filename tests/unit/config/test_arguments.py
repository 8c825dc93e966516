"""Old names of arguments, and settings replaced by name."""

import pytest

from raycap.config import CaptionConfig, GenerationConfig, renamed
from raycap.config.loading import override
from raycap.errors import ConfigError


@renamed(old="new")
def called(first: int, *, new: str = "default") -> str:
    """Return what was given."""
    return f"{first} {new}"


def test_an_old_name_is_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"'old'.*'new'") as caught:
        assert called(1, old="x") == "1 x"  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    assert called(1, new="x") == "1 x"
    assert called(1) == "1 default"


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(TypeError, match="'new'"):
        called(1, old="x", new="y")  # type: ignore[call-arg]


def test_what_is_replaced_counts_as_set_and_nothing_else_does() -> None:
    config = CaptionConfig(generation=GenerationConfig(num_beams=5))
    found = override(config, {"model.name": "demo", "source.split": None})
    assert found.model_dump(exclude_unset=True) == {
        "generation": {"num_beams": 5},
        "model": {"name": "demo"},
    }
    assert override(config, {"model.name": None}) is config


def test_what_is_replaced_is_checked() -> None:
    with pytest.raises(ConfigError):
        override(CaptionConfig(), {"cascade.model": "demo"})
