"""`raycap caption --preflight` as a person runs it."""

import json
import re

import pytest

from tests.support.cli import InProcess
from tests.support.commandline import rows_of, write_images

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_preflight_forecasts_the_run_and_leaves_it_a_clean_output(cli: InProcess) -> None:
    photos = cli.folder / "photos"
    write_images(photos, 30)
    for number in range(10):
        (photos / f"broken-{number}.jpg").write_bytes(b"not an image")
    # Captioned in batches of four, 0.05 s an image.
    model = ("--model", "stub", "--set", "model.stub_latency_s=0.2", "--set", "engine.batch_size=4")
    command = ("caption", "photos", "out", *model)
    allowed = ("--set", "engine.max_failed_share=0.9")
    price = ("--set", "preflight.price_per_hour=3600")
    code, out, err = cli(*command, *allowed, *price, "--preflight", "24")
    assert code == 0, err
    assert re.search(r"^sampled +24 of 40 images", out, re.M)
    assert "unsupported_format" in out
    assert re.search(r"model .*, 1 captioner: .* images/s +<- the bottleneck", out)
    (sentence,) = re.findall(r"^40 images at ([\d.]+) images/s on 1 captioner", out, re.M)
    found = json.loads((cli.folder / "out/preflight/preflight.json").read_text())
    # Of three images in four that reach the model; a busy machine adds to it.
    reached = found["sample"]["num_ok"] / 24
    assert 0 < float(sentence) <= 1.01 / (0.05 * reached)
    # One captioner, at 3,600 an hour.
    assert found["estimate"]["cost"] == pytest.approx(found["estimate"]["run_s"])
    assert "</html>" in (cli.folder / "out/preflight/contact-sheet.html").read_text()
    assert not (cli.folder / "out/run.json").exists()
    assert cli("verify", "out")[0] == 1
    code, _, err = cli(*command, *allowed)
    assert code == 0, err
    assert len(rows_of(cli.folder / "out")) == 40


def test_a_sample_with_too_many_failures_exits_with_3(cli: InProcess) -> None:
    photos = cli.folder / "photos"
    photos.mkdir()
    (photos / "broken.jpg").write_bytes(b"not an image")
    code, _, err = cli("caption", "photos", "out", "--model", "stub", "--preflight", "5")
    assert code == 3
    assert "100.0%" in err
    found = json.loads((cli.folder / "out/preflight/preflight.json").read_text())
    assert found["estimate"] is None
