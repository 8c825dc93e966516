"""Captioners in this process and in Ray Data: the captions are those of `raycap caption`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.errors import ModelError, RunConflict
from raycap.preflights.run import preflight
from raycap.results.caption_result import CaptionResult
from tests.support.commandline import rows_of, wait_until
from tests.support.endpoint_server import endpoint_server
from tests.support.own_models import COLOURS, SCORED, write_module
from tests.support.tiny_blip import save_model

pytestmark = pytest.mark.usefixtures("ray_session")

BEAMS = {"generation": {"num_beams": 3, "num_captions": 2}}
TYPED = {"prompts": {"short": "In short:", "tags": {"text": "Tags?", "choices": ["red", "blue"]}}}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    write_scenes(folder, 9, seed=7)
    (folder / "broken.jpg").write_bytes(b"no image")
    noise = np.random.default_rng(1).integers(0, 256, (300, 410, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg")
    return folder


def config(**sections: Any) -> CaptionConfig:
    return validate_config(CaptionConfig, sections)


def is_same(result: CaptionResult, row: dict[str, Any]) -> bool:
    """Whether a result is what a row of a captions part, or the struct of a prompt, says."""
    logprob = None if row["logprob"] is None else pytest.approx(row["logprob"], abs=1e-4)
    others = [(other["caption"], other["logprob"]) for other in row["alternatives"] or ()]
    return (
        result.text == row["caption"]
        and result.logprob == logprob
        and [one.text for one in result.alternatives] == [text for text, _ in others]
        and [one.logprob for one in result.alternatives]
        == pytest.approx([score for _, score in others], abs=1e-4)
        and (result.error and (str(result.error.code), result.error.message))
        == (row["error_code"] and (row["error_code"], row["error_message"]))
        and (result.finish, result.num_tokens) == (row["finish"], row["num_tokens"])
        and (result.num_prompt_tokens, result.flag) == (row["num_prompt_tokens"], row["flag"])
    )


def check_same(photos: Path, output: Path, settings: CaptionConfig) -> None:
    """Caption images by a run and in this process, and compare."""
    raycap.caption(photos, output, config=settings)
    rows = rows_of(output)
    assert len(rows) == 11
    with raycap.load_captioner(config=settings) as captioner:
        found = captioner.caption(photos / row["image_id"] for row in rows)
    for result, row in zip(found, rows, strict=True):
        if not settings.prompts:
            assert is_same(result, row), row["image_id"]
        for name in settings.prompts:
            assert is_same(result.prompts[name], row[name]), row["image_id"]
            assert result.prompts[name].value == row[name].get("value")


def test_captions_of_the_demo_model_are_those_of_a_run(photos: Path, tmp_path: Path) -> None:
    settings = config(
        model={"name": "demo"}, text={"max_words": 6}, engine={"max_failed_share": 0.2}, **BEAMS
    )
    check_same(photos, tmp_path / "out", settings)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["model", "square"])
def test_captions_of_a_blip_are_those_of_a_run(photos: Path, tmp_path: Path, fit: str) -> None:
    save_model(tmp_path / "model")
    named = {"name": str(tmp_path / "model"), "precision": "fp32"}
    settings = config(model=named, image={"fit": fit}, **BEAMS)
    check_same(photos, tmp_path / "out", settings)


def test_typed_answers_of_the_stub_are_those_of_a_run(photos: Path, tmp_path: Path) -> None:
    check_same(photos, tmp_path / "out", config(model={"name": "stub"}, **TYPED))


def test_answers_of_endpoints_are_those_of_a_run(photos: Path, tmp_path: Path) -> None:
    with endpoint_server() as (_, url):
        model = {"name": "tiny", "backend": "endpoint"}
        prompts = {"prompts": {"short": "In short?", "long": "At length?"}}
        settings = config(model=model, endpoint={"urls": [url]}, **prompts)
        check_same(photos, tmp_path / "out", settings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data's own settings
def test_a_pipeline_of_ray_data_gets_captions(photos: Path, tmp_path: Path) -> None:
    raycap.caption(photos, tmp_path / "out", model="demo")
    expected = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    settings = {"model": "demo", "column": "bytes"}
    files = ray.data.read_binary_files(str(photos), include_paths=True)
    found = files.map_batches(
        raycap.Captioner,
        fn_constructor_kwargs=settings,
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).take_all()
    assert len(found) == len(expected)
    for row in found:
        theirs = expected[Path(row["path"]).name]
        assert (row["caption"], row["status"]) == (theirs["caption"], theirs["status"])
        assert row["error_code"] == theirs["error_code"]
        assert row["logprob"] == pytest.approx(theirs["logprob"], abs=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data's own settings
@pytest.mark.slow
@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_columns_of_paths_and_of_pixels_are_captioned(photos: Path, batch_format: str) -> None:
    scenes = sorted(photos.glob("*.png")) or sorted(photos.glob("scene*"))
    captioner = raycap.load_captioner("stub")
    texts = [one.text for one in captioner.caption(scenes)]
    actors = ray.data.ActorPoolStrategy(size=1)
    shared: dict[str, Any] = {"batch_format": batch_format, "compute": actors, "batch_size": 4}
    paths = ray.data.from_items([{"path": str(path)} for path in scenes])
    named = paths.map_batches(
        raycap.Captioner, fn_constructor_kwargs={"model": "stub", "column": "path"}, **shared
    )
    assert {row["path"]: row["caption"] for row in named.take_all()} == {
        str(path): text for path, text in zip(scenes, texts, strict=True)
    }
    pixels = ray.data.read_images([str(path) for path in scenes], include_paths=True)
    seen = pixels.map_batches(
        raycap.Captioner, fn_constructor_kwargs={"model": "stub"}, **shared
    ).take_all()
    exact = captioner.caption([Image.open(path) for path in scenes])
    by_path = {str(path): one.text for path, one in zip(scenes, exact, strict=True)}
    assert {row["path"]: row["caption"] for row in seen} == by_path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CaptionConfig]:
    """Give settings with a class of the user's own, in a module that only this process finds."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    write_module(tmp_path / "code", f"{name}_colours", COLOURS)
    write_module(tmp_path / "code", f"{name}_scored", SCORED)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))

    def settings(path: str, **sections: Any) -> CaptionConfig:
        model = {"name": f"{name}_{path}", "trust": True, **sections.pop("model", {})}
        return config(model=model, engine={"part_size": 4, "max_failed_share": 0.5}, **sections)

    return settings


def test_a_class_of_ones_own_captions_a_run_that_continues_with_the_same_class_only(
    own: Callable[..., CaptionConfig], photos: Path, tmp_path: Path
) -> None:
    output, settings = tmp_path / "out", own("colours:Colours", model={"args": {"article": "one"}})
    assert raycap.caption(photos, output, config=settings, limit=5).num_captioned == 5
    summary = raycap.caption(photos, output, config=settings)
    assert (summary.num_captioned, summary.num_ok, summary.num_failed) == (6, 10, 1)
    assert verify(output).is_complete
    rows = rows_of(output)
    assert summary.model["kind"] == "custom"
    with raycap.load_captioner(config=settings) as captioner:
        found = captioner.caption(photos / row["image_id"] for row in rows)
    for result, row in zip(found, rows, strict=True):
        assert is_same(result, row)
        assert row["caption"] is None or row["caption"].startswith("one mostly ")
    (code,) = (tmp_path / "code").glob("*_colours.py")
    with code.open("a") as file:
        file.write("\n# changed\n")
    with pytest.raises(RunConflict):
        raycap.caption(photos, output, config=settings)
    other = settings.model_copy(update={"model": settings.model.model_copy(update={"args": {}})})
    with pytest.raises(RunConflict):
        raycap.caption(photos, output, config=other)


def free_cpus() -> float:
    found: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return found.get("CPU", 0.0)


@pytest.mark.slow
def test_an_image_that_breaks_a_class_of_ones_own_is_a_failed_row(
    own: Callable[..., CaptionConfig], tmp_path: Path
) -> None:
    photos = tmp_path / "grey"
    photos.mkdir()
    for shade in (10, 20, 30, 40, 50):
        Image.new("RGB", (20, 20), (shade,) * 3).save(photos / f"{shade}.png")
    settings = own("scored:Scored", model={"args": {"bad": 30}})
    summary = raycap.caption(photos, tmp_path / "out", config=settings)
    assert (summary.num_ok, summary.failed) == (4, {"model_rejected": 1})
    failed = next(row for row in rows_of(tmp_path / "out") if row["status"] == "failed")
    assert re.search(r"no image of 30 \(\w*scored\.py, line 18\)$", failed["error_message"])
    assert [row["caption"] for row in rows_of(tmp_path / "out")][:2] == [
        "image of 10",
        "image of 20",
    ]
    free = free_cpus()
    for args in ({"bad": 128, "logprob": None}, {"logprob": float("nan")}):
        settings = own("scored:Scored", model={"args": args})
        with pytest.raises(ModelError) as found:
            raycap.caption(photos, tmp_path / f"out-{len(args)}", config=settings)
        assert "\n" not in str(found.value)
        # Although the error is kept, with its traceback.
        wait_until(lambda: free_cpus() >= free)


@pytest.mark.slow
def test_a_class_that_answers_takes_prompts_a_preflight_and_a_cascade(
    own: Callable[..., CaptionConfig], photos: Path, tmp_path: Path
) -> None:
    settings = own("scored:Answering", prompts={"one": "One?", "two": "Two?"})
    raycap.caption(photos, tmp_path / "out", config=settings)
    for row in rows_of(tmp_path / "out"):
        assert row["error_code"] or row["two"]["caption"].startswith("Two? ")
    assert preflight(photos, tmp_path / "ahead", 4, config=settings).sample.num_failed <= 1
    second = own("scored:Scored").model.name
    cascade = {"model": second, "below": -0.1, "args": {"logprob": -0.05}}
    both = config(
        model={"name": "stub", "trust": True}, cascade=cascade, engine={"max_failed_share": 0.5}
    )
    summary = raycap.caption(photos, tmp_path / "both", config=both)
    assert summary.cascade["num_images"] == 10
    assert {row["model"] for row in rows_of(tmp_path / "both")} == {second, None}


@pytest.mark.slow
def test_a_class_that_workers_cannot_import_ends_the_run_with_one_line(
    own: Callable[..., CaptionConfig], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own("colours:Colours")
    monkeypatch.setattr("raycap.models.custom._root_of", lambda _: None)
    with pytest.raises(ModelError, match="cannot be imported on ") as found:
        raycap.caption(photos, tmp_path / "out", config=settings)
    assert found.value.uri == settings.model.name
