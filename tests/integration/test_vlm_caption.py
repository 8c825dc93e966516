"""Bulk captioning with a vision-language model, alone and as the second model of a cascade."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import raycap
from raycap.config import CaptionConfig
from raycap.demo.scenes import write_scenes
from raycap.images import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.settings import validate_config
from tests.tiny_vlm import save_vlm

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_pipeline_says_what_the_model_says(tmp_path: Path) -> None:
    model, folder = str(save_vlm("llava", tmp_path / "model")), tmp_path / "scenes"
    write_scenes(folder, 6, seed=11)
    prompt = "User : <image> Describe this picture Assistant :"
    generation = {"num_beams": 2, "max_new_tokens": 6, "prompt": prompt}
    alone = validate_config(
        CaptionConfig,
        {"model": {"name": model}, "generation": generation, "engine": {"batch_size": 4}},
    )
    summary = raycap.caption(folder, tmp_path / "alone", config=alone)
    assert (summary.num_ok, summary.num_failed, summary.model["kind"]) == (6, 0, "vlm")
    second = validate_config(
        CaptionConfig,
        {
            "model": {"name": "stub"},
            "cascade": {"model": model, "below": -0.5, "prompt": prompt},  # all of the stub's
            "generation": {**generation, "prompt": ""},
        },
    )
    summary = raycap.caption(folder, tmp_path / "second", config=second)
    assert summary.cascade["num_images"] == 6

    source = find_model(model)
    captioner = load_captioner(source, alone.model, alone.generation)
    for output in ("alone", "second"):
        for row in rows_of(tmp_path / output):
            image = decode(Path(row["uri"]).read_bytes(), source.target, alone.image)
            (caption,) = captioner.caption(image.pixels[None])
            assert (row["caption"], row["model"]) == (caption.text, model)
            assert row["logprob"] == pytest.approx(caption.logprob, abs=1e-4)


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    return rows
