"""Bulk captioning with a vision-language model, as the second model of a cascade."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import raycap
from raycap.config import CaptionConfig, FittedImageConfig, GenerationConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.images.decoding import decode
from raycap.models.fitting import fit_images
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support.tiny_vlm import KEPT_ANSWERS, save_vlm

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


@pytest.mark.parametrize(
    ("family", "prompt", "fit"),
    [
        ("llava", "User : <image> Describe this picture Assistant :", {}),
        ("idefics3", "Describe this picture", {"fit": "keep"}),
    ],
)
def test_the_pipeline_says_what_the_model_says(
    family: str, prompt: str, fit: dict[str, str], tmp_path: Path
) -> None:
    model = str(save_vlm(family, tmp_path / "model"))
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 6, seed=11)
    for path in sorted(folder.glob("*.jpg"))[:3]:
        with Image.open(path) as scene:
            scene.crop((0, 0, scene.width, scene.height // 2)).save(path)
    searched = {"num_beams": 2, "max_new_tokens": 6}
    settings = validate_config(
        CaptionConfig,
        {
            "model": {"name": "stub"},
            "cascade": {
                "model": model,
                "below": -0.5,
                "prompt": prompt,
                **fit,
            },  # all of the stub's
            "generation": searched,
            "engine": {"batch_size": 4},
            "answers": KEPT_ANSWERS,
        },
    )
    summary = raycap.caption(folder, output, config=settings)
    assert (summary.num_ok, summary.cascade["num_images"], summary.num_failed) == (6, 6, 0)
    assert summary.cascade["model"]["kind"] == "vlm"
    source = fit_images(find_model(model), validate_config(FittedImageConfig, fit))
    generation = GenerationConfig(prompt=prompt, **searched)
    captioner = load_captioner(source, settings.model, generation)
    rows = rows_of(output)
    for row in rows:
        image = decode(Path(row["uri"]).read_bytes(), source.target, settings.image)
        (caption,) = captioner.caption(image.pixels[None])
        assert (row["caption"], row["model"]) == (caption.text, model)
        assert row["logprob"] == pytest.approx(caption.logprob, abs=1e-4)
    assert len({row["caption"] for row in rows}) > 1


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    return rows
