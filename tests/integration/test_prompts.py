"""Several named prompts: one pass, a column each, and a later prompt is asked alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raycap
from raycap import schema
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, GenerationConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, RunConflict
from tests.support.faulty_http import Reply, faulty_server
from tests.support.tiny_blip import save_model
from tests.support.tiny_scratch import build

pytestmark = pytest.mark.usefixtures("ray_session")


def config(prompts: dict[str, Any], **sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("engine", {"part_size": 4})
    return validate_config(CaptionConfig, {**sections, "prompts": prompts})


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def parts_of(output: Path) -> list[Path]:
    return sorted((output / "captions").iterdir())


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for part in parts_of(output) for row in pq.read_table(part).to_pylist()]


def replace_answers(output: Path, prompt: str, text: str) -> None:
    """Replace the texts of a prompt, so that a later run shows whether it was asked again."""
    for part in parts_of(output):
        table = pq.read_table(part)
        place = table.schema.get_field_index(prompt)
        rows = [{**one, "caption": text, "num_words": 1} for one in table[prompt].to_pylist()]
        column = pa.array(rows, table.schema.field(prompt).type)
        pq.write_table(table.set_column(place, table.schema.field(prompt), column), part)


def texts(output: Path, prompt: str) -> list[str | None]:
    return [row[prompt] and row[prompt]["caption"] for row in rows_of(output)]


def test_each_prompt_is_a_column_and_its_answers_are_those_of_a_run_with_it_alone(
    tmp_path: Path,
) -> None:
    images = write_images(tmp_path / "images", 6)
    (images / "broken.png").write_bytes(b"no image")
    named = config({"short": "In short:", "long": {"text": "At length:", "max_new_tokens": 90}})
    summary = raycap.caption(images, tmp_path / "out", config=named)
    assert (summary.num_ok, summary.failed) == (6, {"unsupported_format": 1})
    assert summary.prompts == ["short", "long"]
    for name, prompt in (("short", "In short:"), ("long", "At length:")):
        alone = validate_config(
            CaptionConfig, {"model": {"name": "stub"}, "generation": {"prompt": prompt}}
        )
        raycap.caption(images, tmp_path / name, config=alone)
        expected = [row["caption"] for row in rows_of(tmp_path / name)]
        assert texts(tmp_path / "out", name) == expected
    row = rows_of(tmp_path / "out")[-1]
    assert row["status"] == "failed"
    assert {row[name]["error_code"] for name in ("short", "long")} == {"unsupported_format"}
    assert schema.CAPTION not in row
    found = verify(tmp_path / "out")
    assert found.is_complete
    assert found.num_ok == 6


def test_a_later_prompt_is_asked_alone_and_so_is_a_changed_one(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", 6), tmp_path / "out"
    raycap.caption(images, output, config=config({"short": "In short:"}))
    replace_answers(output, "short", "kept")
    both = {"short": "In short:", "tags": "Tags:"}
    summary = raycap.caption(images, output, config=config(both))
    assert (summary.num_captioned, summary.num_ok) == (6, 6)
    assert texts(output, "short") == ["kept"] * 6
    assert all(text and text.startswith("Tags: ") for text in texts(output, "tags"))

    replace_answers(output, "tags", "kept, too")
    raycap.caption(images, output, config=config({**both, "short": "Briefly:"}))
    assert texts(output, "tags") == ["kept, too"] * 6
    assert all(text and text.startswith("Briefly: ") for text in texts(output, "short"))
    again = raycap.caption(images, output, config=config({**both, "short": "Briefly:"}))
    assert again.num_captioned == 0


def test_a_changed_image_is_asked_all_prompts_and_the_others_none(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", 6), tmp_path / "out"
    named = config({"short": "In short:", "tags": "Tags:"})
    raycap.caption(images, output, config=named)
    for name in ("short", "tags"):
        replace_answers(output, name, "kept")
    Image.new("RGB", (9, 9), "red").save(images / "03.png")
    (images / "99.png").write_bytes((images / "03.png").read_bytes())
    summary = raycap.caption(images, output, config=named)
    assert summary.num_captioned == 2
    for name in ("short", "tags"):
        fresh = [text for text in texts(output, name) if text != "kept"]
        assert len(fresh) == 2
        assert fresh[0] == fresh[1]


def test_an_image_is_read_once_for_all_its_prompts(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 5)
    listed = tmp_path / "list.txt"
    with faulty_server() as server:
        server.pages |= {
            f"/{file.name}": Reply(body=file.read_bytes()) for file in images.iterdir()
        }
        listed.write_text("".join(f"{server.url}{path}\n" for path in server.pages))
        named = config({"one": "1:", "two": "2:", "three": "3:"})
        assert raycap.caption(listed, tmp_path / "out", config=named).num_ok == 5
        assert len(server.requests) == 5


def test_blip_continues_every_prompt_as_it_does_alone(tmp_path: Path) -> None:
    images, folder = write_images(tmp_path / "images", 5), save_model(tmp_path / "blip")
    model = {"name": str(folder), "precision": "fp32"}
    prompts = {"plain": "a picture of", "other": "this is"}
    raycap.caption(images, tmp_path / "out", config=config(prompts, model=model))
    for name, prompt in prompts.items():
        alone = validate_config(CaptionConfig, {"model": model, "generation": {"prompt": prompt}})
        raycap.caption(images, tmp_path / name, config=alone)
        rows = rows_of(tmp_path / name)
        assert texts(tmp_path / "out", name) == [row["caption"] for row in rows]
        of_prompt = [row[name] for row in rows_of(tmp_path / "out")]
        assert [one["num_tokens"] for one in of_prompt] == [row["num_tokens"] for row in rows]
        assert {one["finish"] for one in of_prompt} <= {"stop", "length"}


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", 2), tmp_path / "out"
    with pytest.raises(ConfigError) as caught:
        raycap.caption(images, output, config=config({"caption": "?"}))
    assert caught.value.setting == "prompts.caption"
    build("cnn-lstm").save(tmp_path / "model", GenerationConfig(), {})
    scratch = {"name": str(tmp_path / "model")}
    with pytest.raises(ConfigError) as caught:
        raycap.caption(images, output, config=config({"short": "?"}, model=scratch))
    assert caught.value.setting == "prompts"
    raycap.caption(images, output, config=config({"short": "In short:"}))
    plain = validate_config(CaptionConfig, {"model": {"name": "stub"}})
    with pytest.raises(RunConflict):
        raycap.caption(images, output, config=plain)


def test_exports_and_scores_take_the_prompt_that_is_chosen(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", 3), tmp_path / "out"
    raycap.caption(images, output, config=config({"short": "In short:", "tags": "Tags:"}))
    raycap.export(output, tmp_path / "first.csv", to="csv")
    raycap.export(output, tmp_path / "tags.csv", to="csv", prompt="tags")
    assert "In short:" in (tmp_path / "first.csv").read_text()
    assert "Tags:" in (tmp_path / "tags.csv").read_text()
    with pytest.raises(DatasetError) as caught:
        raycap.export(output, tmp_path / "none.csv", to="csv", prompt="none")
    assert caught.value.setting == "prompt"
