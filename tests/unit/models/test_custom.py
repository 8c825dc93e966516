"""Models of the user's own: found, identified, checked and asked."""

import importlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Question
from raycap.models.load import load_captioner
from raycap.models.sources import check_arithmetic, find_asked, find_model
from tests.support.own_models import COLOURS, SCORED, write_module

PIXELS = np.zeros((3, 24, 32, 3), np.uint8)
PIXELS[0, ..., 0] = PIXELS[1, ..., 1] = PIXELS[2, ..., 2] = 200


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules of the user's, which later tests import anew."""
    before = set(sys.modules)
    path = list(sys.path)
    write_module(tmp_path, "own_colours", COLOURS)
    write_module(tmp_path, "own_scored", SCORED)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def asked(name: str, **settings: Any) -> ModelConfig:
    return ModelConfig(name=name, trust=True, **settings)


def loaded(model: ModelConfig, generation: GenerationConfig | None = None) -> Any:
    return load_captioner(find_asked(model), model, generation or GenerationConfig())


def test_a_class_in_the_current_folder_captions_with_its_arguments(folder: Path) -> None:
    model = asked("own_colours:Colours", args={"article": "one"})
    source = find_asked(model)
    assert (source.kind, source.name, source.root) == ("custom", model.name, str(folder))
    assert source.target == Target(width_px=32, height_px=24)
    captions = loaded(model).caption(PIXELS)
    assert [caption.text for caption in captions] == [
        f"one mostly {name} image" for name in ("red", "green", "blue")
    ]
    assert not any(caption.has_logprob for caption in captions)
    assert model.arithmetic()["args"] == {"article": "one"}


def test_scores_and_answers_are_those_of_the_class() -> None:
    scored = loaded(asked("own_scored:Scored", args={"logprob": -0.5}))
    assert [(one.text, one.logprob) for one in scored.caption(PIXELS)] == [
        ("image of 66", -0.5)
    ] * 3
    model = asked("own_scored:Answering")
    assert find_asked(model).kind == "custom-answering"
    questions = [[Question(text="one"), Question(text="two")]] * 3
    answers = loaded(model).answer(PIXELS, questions)
    assert [[one.text for one in of_image] for of_image in answers] == [["one 66", "two 66"]] * 3
    prompted = loaded(model, GenerationConfig(prompt="what?"))
    assert prompted.caption(PIXELS)[0].text == "what? 66"


def test_a_class_that_is_not_trusted_is_not_imported() -> None:
    with pytest.raises(ModelError) as found:
        find_asked(ModelConfig(name="own_colours:Colours"))
    assert found.value.setting == "model.trust"
    assert "own_colours" not in sys.modules
    with pytest.raises(ModelError):
        find_model("own_colours:Colours")


def test_the_source_identifies_a_class_unless_it_says_what_does(folder: Path) -> None:
    colours, scored = asked("own_colours:Colours"), asked("own_scored:Scored")
    before = [find_asked(model) for model in (colours, scored)]
    assert [find_asked(model) for model in (colours, scored)] == before
    for name in ("own_colours", "own_scored"):
        with (folder / f"{name}.py").open("a") as file:
            file.write("\n# changed\n")
    after = [find_asked(model) for model in (colours, scored)]
    assert after[0].digest != before[0].digest
    assert after[1].digest == before[1].digest
    with pytest.raises(ModelError) as found:
        load_captioner(before[0], colours, GenerationConfig())
    assert found.value.uri == colours.name


def test_all_modules_of_a_package_identify_its_classes(folder: Path) -> None:
    write_module(folder / "own_package", "__init__", "from own_package.model import Colours")
    write_module(folder / "own_package", "model", COLOURS)
    model = asked("own_package:Colours")
    before = find_asked(model)
    assert before.root == str(folder)
    write_module(folder / "own_package" / "deep", "other", "x = 1")
    assert find_asked(model).digest != before.digest


def test_an_installed_package_registers_a_captioner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder / "own_dist-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-dist\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[raycap.captioners]\ncolours = own_colours:Colours\n")
    monkeypatch.syspath_prepend(str(folder))
    model = ModelConfig(name="colours")
    assert find_asked(model).kind == "custom"
    assert loaded(model).caption(PIXELS)[0].text == "a mostly red image"


def test_arguments_decide_size_and_identity_by_class_methods(folder: Path) -> None:
    source = """
        class Sized:
            @classmethod
            def target(cls, side=8): return side, side
            @classmethod
            def fingerprint(cls, side=8): return f"sized {side}"
            def __init__(self, side=8): pass
            def caption(self, pixels): return ["x"] * len(pixels)
    """
    write_module(folder, "own_sized", source)
    small, large = (find_asked(asked("own_sized:Sized", args={"side": n})) for n in (8, 9))
    assert (small.target.width_px, large.target.height_px) == (8, 9)
    assert small.digest != large.digest


@pytest.mark.parametrize(
    ("name", "args", "setting"),
    [
        ("own_gone:Colours", {}, None),
        ("own_colours:Gone", {}, None),
        ("own_colours:NAMES", {}, None),
        ("own_broken:Broken", {}, None),
        ("own_bad:NoTarget", {}, None),
        ("own_bad:NoCaption", {}, None),
        ("own_bad:WrongTarget", {}, None),
        ("own_bad:PropertyTarget", {}, None),
        ("own_bad:WrongFingerprint", {}, None),
        ("own_bad:InstanceFingerprint", {}, None),
        ("__main__:Colours", {}, None),
        ("own_colours:Colours", {"colour": 1}, "model.args"),
    ],
)
def test_what_is_wrong_with_a_class_is_one_line(
    folder: Path, name: str, args: dict[str, Any], setting: str | None
) -> None:
    write_module(folder, "own_broken", "import own_missing_dependency\nclass Broken: ...")
    bad = """
        class NoTarget:
            def caption(self, pixels): ...
        class NoCaption:
            target = (8, 8)
        class WrongTarget(NoTarget):
            target = (8, 0)
        class PropertyTarget(NoTarget):
            @property
            def target(self): return 8, 8
        class WrongFingerprint(NoTarget):
            target = (8, 8)
            fingerprint = 5
        class InstanceFingerprint(NoTarget):
            target = (8, 8)
            def fingerprint(self): return "x"
    """
    write_module(folder, "own_bad", bad)
    with pytest.raises(ModelError) as found:
        loaded(asked(name, args=args))
    assert (found.value.uri, found.value.setting) == (name, setting)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "returned",
    [
        "'a' * len(pixels)",
        "['a']",
        "None",
        "[5] * len(pixels)",
        "[['a']] * len(pixels)",
        "[caption(logprob='high')] * len(pixels)",
        "[caption(text=b'a')] * len(pixels)",
    ],
)
def test_wrong_results_are_one_line(folder: Path, returned: str) -> None:
    source = f"""
        import raycap
        def caption(**wrong):
            made = raycap.Caption(text="a", logprob=-1.0)
            for name, value in wrong.items():  # the test run checks what its constructor gets
                object.__setattr__(made, name, value)
            return made
        class Wrong:
            target = (32, 24)
            def caption(self, pixels): return {returned}
    """
    write_module(folder, "own_wrong", textwrap.dedent(source))
    captioner = loaded(asked("own_wrong:Wrong"))
    with pytest.raises(ModelError, match="own_wrong:Wrong: ") as found:
        captioner.caption(PIXELS)
    assert "\n" not in str(found.value)


def test_settings_that_raycap_cannot_apply_are_refused() -> None:
    model = asked("own_colours:Colours")
    source = find_asked(model)
    for setting in ({"precision": "bf16"}, {"compile": True}, {"adapter": "lora/"}):
        with pytest.raises(ModelError) as found:
            check_arithmetic(source, model.model_copy(update=setting))
        assert found.value.setting == f"model.{next(iter(setting))}"
    with pytest.raises(ModelError) as found:
        loaded(model, GenerationConfig(prompt="what?"))
    assert found.value.setting == "generation.prompt"
    with pytest.raises(ModelError) as found:
        check_arithmetic(find_model("stub"), ModelConfig(name="stub", args={"a": 1}))
    assert found.value.setting == "model.args"


def test_a_worker_searches_the_folder_of_the_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = asked("own_colours:Colours")
    source = find_asked(model)
    del sys.modules["own_colours"]
    sys.path.remove(str(folder))
    monkeypatch.chdir("/")
    assert load_captioner(source, model, GenerationConfig()).caption(PIXELS)
    del sys.modules["own_colours"]
    sys.path.remove(str(folder))
    with pytest.raises(ModelError, match="install its package on every node"):
        load_captioner(replace(source, root=None), model, GenerationConfig())
