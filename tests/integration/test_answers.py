"""Bad answers in a run: judged, asked again, flagged, counted; and one caption for all images."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

import raycap
from raycap import schema
from raycap.captioning.parts import read_captions_footer
from raycap.captioning.status import read_status
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, RunConflict, RunStopped
from raycap.storage.stores import open_store
from tests.support.tiny_blip import save_model

pytestmark = pytest.mark.usefixtures("ray_session")

NUM_IMAGES = 6
NUM_TOKENS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model") / "blip"))


def config(model: str, **sections: Any) -> CaptionConfig:
    generation = {"num_beams": 1, "max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
    given = {"model": {"name": model}, "generation": generation, **sections}
    return validate_config(CaptionConfig, given)


def rows_of(output: Path) -> list[dict[str, Any]]:
    parts = sorted((output / "captions").iterdir())
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_captions_in_a_fixed_style_are_flagged_only(
    tmp_path: Path, folder: Path, model: str
) -> None:
    summary = raycap.caption(folder, tmp_path / "out", config=config(model))
    rows = rows_of(tmp_path / "out")
    assert (summary.num_ok, summary.num_failed) == (NUM_IMAGES, 0)
    flags = [row[schema.FLAG] for row in rows]
    assert "truncated" in flags
    counts = {flag: flags.count(flag) for flag in sorted(set(filter(None, flags)))}
    assert summary.flagged == counts
    footer = read_captions_footer(open_store(str(tmp_path / "out"), config(model).storage), 0)
    assert footer.flagged == counts
    beat = read_status(tmp_path / "out").beat
    assert beat is not None
    assert beat.flagged == counts
    raycap.report([tmp_path / "out"], tmp_path / "report.html")
    assert "Doubtful captions" in (tmp_path / "report.html").read_text()


def test_a_cut_answer_is_asked_again_with_twice_the_tokens(
    tmp_path: Path, folder: Path, model: str
) -> None:
    given = config(model, answers={"truncated": "retry_keep"})
    raycap.caption(folder, tmp_path / "out", config=given)
    rows = rows_of(tmp_path / "out")
    cut = [row for row in rows if row[schema.FINISH] == "length"]
    assert {row[schema.NUM_TOKENS] for row in cut} == {2 * NUM_TOKENS}
    assert {row[schema.FLAG] for row in cut} == {"truncated"}
    assert {row[schema.FLAG] for row in rows if row not in cut} <= {None}


def test_a_bad_answer_can_fail_its_row(tmp_path: Path, folder: Path, model: str) -> None:
    given = config(model, answers={"truncated": "fail"})
    summary = raycap.caption(folder, tmp_path / "out", config=given)
    assert summary.failed == {"truncated": NUM_IMAGES}
    with pytest.raises(RunConflict):  # with other actions, captions would differ
        raycap.caption(folder, tmp_path / "out", config=config(model))
    # The bound on equal captions decides no caption.
    bounded = config(model, answers={"truncated": "fail", "max_same_share": 0.5})
    assert raycap.caption(folder, tmp_path / "out", config=bounded).num_captioned == 0


def test_an_unknown_language_is_refused_before_the_run(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        raycap.caption(folder, tmp_path / "out", config=config("stub", answers={"language": "xx"}))
    assert caught.value.setting == "answers.language"
    assert not (tmp_path / "out").exists()


def write_alike(folder: Path, count: int) -> Path:
    """Write images whose files differ, but whose pixels do not."""
    folder.mkdir()
    image = Image.new("RGB", (8, 8), (200, 30, 30))
    for number in range(count):
        comment = PngImagePlugin.PngInfo()
        comment.add_text("Comment", str(number))
        image.save(folder / f"{number:04d}.png", pnginfo=comment)
    return folder


def test_one_caption_of_all_images_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_alike(tmp_path / "images", 300)
    given = config("stub", engine={"part_size": 100})
    summary = raycap.caption(folder, tmp_path / "out", config=given)
    assert summary.same_caption["num_images"] == summary.same_caption["num_of"]
    assert summary.same_caption["num_of"] >= 200
    warnings = [record for record in caplog.records if "same_caption" in record.message]
    assert len(warnings) == 1


@pytest.mark.slow
def test_one_caption_of_too_many_images_stops_the_run(tmp_path: Path) -> None:
    folder = write_alike(tmp_path / "images", 1_200)
    engine = {"part_size": 100, "batch_size": 100}
    bounded = config("stub", engine=engine, answers={"max_same_share": 0.9})
    with pytest.raises(RunStopped) as caught:
        raycap.caption(folder, tmp_path / "out", config=bounded)
    assert caught.value.setting == "answers.max_same_share"
    num_committed = len(rows_of(tmp_path / "out"))
    assert 0 < num_committed < 1_200
    free = config("stub", engine=engine)
    summary = raycap.caption(folder, tmp_path / "out", config=free)
    assert (summary.num_ok, summary.num_captioned) == (1_200, 1_200 - num_committed)
