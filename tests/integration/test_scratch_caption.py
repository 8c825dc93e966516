"""Bulk captioning with captioners trained from scratch: workers say what the model says."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.images.decoding import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support.tiny_scratch import BEAMS, build

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.slow
def test_the_pipeline_says_what_the_model_says(tmp_path: Path) -> None:
    """For one kind: that each is loaded and captions alike, tests/unit shows."""
    model, folder, output = tmp_path / "model", tmp_path / "scenes", tmp_path / "out"
    build("hybrid", num_layers=1).save(model, BEAMS, {})
    write_scenes(folder, 6, seed=11)
    settings = validate_config(
        CaptionConfig, {"model": {"name": str(model)}, "engine": {"batch_size": 4}}
    )
    summary = raycap.caption(folder, output, config=settings)
    assert (summary.num_ok, summary.num_failed) == (6, 0)
    source = find_model(str(model))
    captioner = load_captioner(source, settings.model, BEAMS)
    for part in sorted((output / "captions").iterdir()):
        for row in pq.read_table(part).to_pylist():
            image = decode(Path(row["uri"]).read_bytes(), source.target, settings.image)
            (alone,) = captioner.caption(image.pixels[None])
            assert row["caption"] == alone.text
            assert row["logprob"] == pytest.approx(alone.logprob, abs=1e-4)
