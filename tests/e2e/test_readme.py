"""The README's examples do what it says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raycap.demo.scenes import long_captions, short_caption, write_scenes
from tests.conftest import S3, MakeJpeg
from tests.support.commandline import CommandLine, rows_of, write_images
from tests.support.documents import NOT_RUN, README, readme_commands

CONFIGS = Path(__file__).parents[2] / "configs"

_SMALL = [
    *("--set", "generation.num_beams=1", "--set", "generation.max_new_tokens=8"),
    *("--set", "architecture.width=16", "--set", "architecture.image_px=64"),
    *("--set", "architecture.encoder=small-cnn"),
]
ALSO = {
    "raycap train dataset/ run/": [
        *("--init", "demo", "--set", "train.num_epochs=1", "--set", "generation.num_beams=1"),
        *("--set", "train.batch_size=8", "--set", "generation.max_new_tokens=8"),
    ],
    "raycap train dataset/ run-hybrid/": [
        *("--set", "train.num_epochs=1", *_SMALL[:-2]),
    ],
    "raycap tune": [
        *("--set", "tune.space.train.lr=[5e-4]", "--set", "train.num_epochs=1"),
        *("--set", "tune.space.train.batch_size=[8]", *_SMALL),
    ],
    "raycap train dataset/ best/": ["--set", "train.num_epochs=1"],
    "raycap study": [
        *("--set", "study.systems=[cnn-lstm,blip-pretrained]", "--set", "study.subsets=[1.0]"),
        *("--set", "study.subsets_without_augmentation=[]"),
        *("--set", "training.train.num_epochs=1", "--set", "training.train.batch_size=8"),
    ],
    "raycap calibrate": ["--set", "search.num_min_lengths=1", "--set", "generation.num_beams=1"],
}
"""What a test adds to a command so that it is done in seconds."""


def also(line: str) -> list[str]:
    return next((more for start, more in ALSO.items() if line.startswith(start)), [])


def run(raycap: CommandLine, line: str) -> None:
    code, _, err = raycap(*shlex.split(line)[1:], *also(line))
    assert code == 0, f"{line}\n{err}"


def write_annotated_scenes(folder: Path) -> None:
    """Write what the examples read: images in two folders, annotations, another's results."""
    scenes = write_scenes(folder / "photos", 24, seed=5)
    shutil.copytree(folder / "photos", folder / "coco")
    images = [
        {
            "filename": name,
            "cocoid": at,
            "split": ("test", "val", "train")[min(at // 6, 2)],
            "sentences": [{"raw": text} for text in long_captions(scene)],
        }
        for at, (name, scene) in enumerate(scenes)
    ]
    (folder / "annotations").mkdir()
    (folder / "annotations/dataset_coco.json").write_text(json.dumps({"images": images}))
    results = [
        {"image_id": at, "caption": short_caption(scene)} for at, (_, scene) in enumerate(scenes)
    ]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "configs").symlink_to(CONFIGS)


def test_every_command_is_run_here_or_says_why_not() -> None:
    for line in readme_commands():
        reasons = [why for start, why in NOT_RUN.items() if line.startswith(start)]
        assert reasons or line.startswith("raycap "), line


@pytest.mark.timeout(900)
def test_the_commands_on_a_folder_run_in_their_order(raycap: CommandLine) -> None:
    write_annotated_scenes(raycap.folder)
    for line in readme_commands():
        if not any(line.startswith(start) for start in NOT_RUN) and "s3://" not in line:
            run(raycap, line)
    assert len((raycap.folder / "captions.jsonl").read_text().splitlines()) == 24
    for page in ("report.html", "training.html", "search.html", "study/report.html"):
        assert "</html>" in (raycap.folder / page).read_text()
    assert rows_of(raycap.folder / "tuned")
    assert rows_of(raycap.folder / "longer")


def test_the_commands_on_a_bucket_run_with_a_model_that_needs_no_download(
    raycap: CommandLine, s3: S3, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raycap.folder)
    s3.put("photos/a.jpg", make_jpeg())
    raycap.env |= s3.env
    (raycap.folder / "configs").symlink_to(CONFIGS)
    for line in readme_commands():
        if re.match(r"raycap .*s3:", line):
            model = " --model stub" if line.startswith("raycap caption") else ""
            run(raycap, line.replace("my-bucket", s3.bucket) + model)
    assert s3.client.head_object(Bucket=s3.bucket, Key="captions/summary.json")


def test_the_python_example_runs(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 3)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=raycap.folder,
        env={**os.environ, **raycap.env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "3 {}", done.stderr
    assert len(rows_of(raycap.folder / "captions")) == 3
