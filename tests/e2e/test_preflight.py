"""`raycap caption --preflight` as a person runs it."""

import json
import re

import pytest

from tests.support.commandline import CommandLine, rows_of, write_images


def test_a_preflight_tells_what_the_run_takes_and_leaves_it_a_clean_output(
    raycap: CommandLine,
) -> None:
    photos = raycap.folder / "photos"
    write_images(photos, 30)
    for number in range(10):
        (photos / f"broken-{number}.jpg").write_bytes(b"not an image")
    # Captioned in batches of four, 0.05 s an image.
    model = ("--model", "stub", "--set", "model.stub_latency_s=0.2", "--set", "engine.batch_size=4")
    command = ("caption", "photos", "out", *model)
    allowed = ("--set", "engine.max_failed_share=0.9")
    price = ("--set", "preflight.price_per_hour=3600")
    code, out, err = raycap(*command, *allowed, *price, "--preflight", "24")
    assert code == 0, err
    assert "Traceback" not in err
    assert re.search(r"^sampled +24 of 40 images", out, re.M)
    assert "unsupported_format" in out
    assert re.search(r"model .*, 1 captioner: .* images/s +<- the bottleneck", out)
    (sentence,) = re.findall(r"^40 images at ([\d.]+) images/s on 1 captioner: about", out, re.M)
    found = json.loads((raycap.folder / "out/preflight/preflight.json").read_text())
    # Of three images in four that reach the model; a busy machine adds to it.
    reached = found["sample"]["num_ok"] / 24
    assert 1 < float(sentence) <= 1.01 / (0.05 * reached)
    # One captioner, at 3,600 an hour.
    assert found["estimate"]["cost"] == pytest.approx(found["estimate"]["run_s"])
    sheet = (raycap.folder / "out/preflight/contact-sheet.html").read_text()
    assert "</html>" in sheet
    assert not (raycap.folder / "out/run.json").exists()
    assert raycap("verify", "out")[0] == 1
    code, _, err = raycap(*command, *allowed)
    assert code == 0, err
    assert len(rows_of(raycap.folder / "out")) == 40


def test_a_sample_with_too_many_failures_exits_with_3_and_a_contradiction_with_2(
    raycap: CommandLine,
) -> None:
    photos = raycap.folder / "photos"
    photos.mkdir()
    (photos / "broken.jpg").write_bytes(b"not an image")
    code, out, err = raycap("caption", "photos", "out", "--model", "stub", "--preflight", "5")
    assert code == 3
    assert "no estimate, as no sampled image reached the model" in " ".join(out.split())
    assert "100.0% of the images failed" in err
    code, _, err = raycap("caption", "photos", "out", "--dry-run", "--preflight", "5")
    assert code == 2
    assert "give one of them" in " ".join(err.split())
