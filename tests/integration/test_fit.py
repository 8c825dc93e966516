"""Images that keep their aspect ratio, through the whole pipeline."""

from pathlib import Path
from typing import Any

import pytest

import raycap
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import RunConflict
from raycap.images.decoding import decode
from raycap.models.fitting import fit_images
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.conftest import MakeJpeg
from tests.support.commandline import rows_of

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

SIZES = [(64, 48), (48, 64), (200, 40), (31, 17)]


def settings(**image: Any) -> CaptionConfig:
    engine = {"batch_size": 3, "part_size": 8}
    return validate_config(
        CaptionConfig, {"model": {"name": "stub"}, "engine": engine, "image": image}
    )


def test_every_image_reaches_the_model_in_its_own_size(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    for number in range(16):
        make_jpeg(folder / f"{number}.jpg", size=SIZES[number % 4], seed=number)
    (folder / "broken.jpg").write_bytes(b"no image")
    config = settings(fit="keep", max_pixels_model=2000)
    summary = raycap.caption(folder, output, config=config)
    assert (summary.num_ok, summary.num_failed) == (16, 1)
    source = fit_images(find_model("stub"), config.image)
    captioner = load_captioner(source, config.model, config.generation)
    shapes = set()
    for row in rows_of(output):
        if row["status"] == "ok":
            image = decode(Path(row["uri"]).read_bytes(), source.target, config.image)
            (caption,) = captioner.caption(image.pixels[None])
            assert row["caption"] == caption.text
            shapes.add(image.pixels.shape)
    assert len(shapes) == 4
    with pytest.raises(RunConflict):
        raycap.caption(folder, output, config=settings(fit="square"))
    resumed = raycap.caption(folder, output, config=config)
    assert resumed.num_captioned == 0
