"""The settings that a model is saved with: who says which, and copies with others."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from raycap.config import GenerationConfig
from raycap.errors import ConfigError, ModelError
from raycap.models.load import copy_model, load_captioner
from raycap.models.sources import DEMO_FOLDER, find_model, settled_generation
from tests.support import tiny_blip, tiny_scratch
from tests.support.tiny_blip import FP32, copy_folder, random_pixels

_one_thread = tiny_blip.one_thread
folder = tiny_blip.folder

LONG = GenerationConfig(num_beams=2, min_new_tokens=9, max_new_tokens=12, no_repeat_ngram_size=2)


def with_record(folder: Path, to: Path, generation: Any) -> Path:
    to.mkdir()
    copy_folder(folder, to)
    (to / "raycap.json").write_text(json.dumps({"kind": "blip", "generation": generation}))
    return to


def test_a_model_saved_without_settings_leaves_what_was_asked_as_it_is(folder: Path) -> None:
    for source in (find_model(str(folder)), find_model("demo"), find_model("stub")):
        assert source.generation is None
        for asked in (GenerationConfig(), GenerationConfig(num_beams=1)):
            assert settled_generation(asked, source) is asked


def test_what_is_not_set_comes_from_the_model_setting_by_setting(
    folder: Path, tmp_path: Path
) -> None:
    saved = {"num_beams": 1, "min_new_tokens": 9, "sampling": {"enabled": True, "seed": 5}}
    source = find_model(str(with_record(folder, tmp_path / "model", saved)))
    assert settled_generation(GenerationConfig(), source) == GenerationConfig.model_validate(saved)
    asked = GenerationConfig.model_validate({"min_new_tokens": 0, "sampling": {"top_k": 7}})
    assert settled_generation(asked, source) == GenerationConfig.model_validate(
        {"num_beams": 1, "sampling": {"enabled": True, "seed": 5, "top_k": 7}}
    )


def test_a_default_that_is_set_wins_over_the_model(folder: Path, tmp_path: Path) -> None:
    saved = LONG.model_dump(mode="json")
    source = find_model(str(with_record(folder, tmp_path / "model", saved)))
    asked = GenerationConfig(num_beams=GenerationConfig().num_beams)
    assert settled_generation(asked, source).num_beams == 3
    assert settled_generation(asked, source).min_new_tokens == 9


def test_settings_that_contradict_the_models_are_one_clear_line(
    folder: Path, tmp_path: Path
) -> None:
    saved = LONG.model_dump(mode="json")
    source = find_model(str(with_record(folder, tmp_path / "model", saved)))
    with pytest.raises(
        ConfigError,
        match=r"min_new_tokens .*max_new_tokens.*raycap\.json .*model",
    ) as caught:
        settled_generation(GenerationConfig(max_new_tokens=5), source)
    assert caught.value.setting == "generation"


@pytest.mark.parametrize(
    ("record", "setting"),
    [
        ({"num_beams": 0}, "generation.num_beams"),
        ({"beams": 3}, "generation.beams"),
        ([3], "generation"),
    ],
)
def test_a_record_that_is_none_is_refused(
    record: Any, setting: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(str(with_record(folder, tmp_path / "model", record)))
    assert caught.value.setting == setting
    assert caught.value.uri == str(tmp_path / "model/raycap.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["blip", *tiny_scratch.KINDS])
def test_a_copy_captions_as_the_model_does_by_the_settings_it_was_given(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    original, pixels = folder, random_pixels(3)
    if kind != "blip":
        original, pixels = tmp_path / "original", tiny_scratch.images(3)
        tiny_scratch.build(kind).save(original, tiny_scratch.GREEDY, {"epoch": 4})
    source = find_model(str(original))
    copy_model(source, tmp_path / "copy", LONG, {"calibration": {"split": "validation"}})

    copied = find_model(str(tmp_path / "copy"))
    assert (copied.kind, copied.digest) == (kind, source.digest)
    assert settled_generation(GenerationConfig(), copied) == LONG
    record = json.loads((tmp_path / "copy" / "raycap.json").read_text())
    assert record["calibration"] == {"split": "validation"}
    assert record.get("training") == (None if kind == "blip" else {"epoch": 4})
    before = load_captioner(source, FP32, LONG).caption(pixels)
    assert load_captioner(copied, FP32, LONG).caption(pixels) == before
    own = transformers.GenerationConfig.from_pretrained(tmp_path / "copy")
    assert (own.num_beams, own.max_new_tokens, own.no_repeat_ngram_size) == (2, 12, 2)
    assert own.min_new_tokens == 9


def test_other_settings_share_the_weights(folder: Path) -> None:
    pixels = random_pixels(3)
    first = GenerationConfig(num_beams=1)
    source = find_model(str(folder))
    captioner: Any = load_captioner(source, FP32, first)
    short = captioner.caption(pixels)
    long = captioner.with_generation(LONG)
    assert long.caption(pixels) == load_captioner(source, FP32, LONG).caption(pixels)
    assert captioner.caption(pixels) == short
    assert min(captioner.count_tokens([caption.text for caption in long.caption(pixels)])) >= 9


def test_a_copy_begun_before_is_finished_without_copying_weights_again(tmp_path: Path) -> None:
    source = find_model("demo")
    copy_model(source, tmp_path / "copy", LONG, {})
    weights = tmp_path / "copy" / "model.safetensors"
    before = weights.stat()
    copy_model(source, tmp_path / "copy", GenerationConfig(), {})
    assert weights.stat().st_ino == before.st_ino
    assert find_model(str(tmp_path / "copy")).generation == GenerationConfig()
    weights.write_bytes(b"half")
    copy_model(source, tmp_path / "copy", LONG, {})
    assert weights.read_bytes() == (DEMO_FOLDER / "model.safetensors").read_bytes()
    assert not list((tmp_path / "copy").glob("*.tmp"))


def test_a_model_that_has_gone_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    source = find_model(str(copy_folder(folder, gone)))
    (gone / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        copy_model(source, tmp_path / "copy", LONG, {})
    assert caught.value.uri == str(gone)
